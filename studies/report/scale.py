"""Where on an axis a number lies, in percent of its length, and where its ticks are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_MANTISSAS = (
    (1, 1.5, 2, 3, 5, 7),
    (1, 2, 5),
    (1, 3),
    (1,),
)  # of logarithmic ticks, fewer and fewer
_MOST_TICKS = 7


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from `low` to `high`."""

    low: float
    high: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Return the place of a value in percent; what lies beyond is put at the end."""
        low, high, value = (
            (math.log(number) for number in (self.low, self.high, max(value, 1e-300)))
            if self.logarithmic
            else (self.low, self.high, value)
        )
        return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 2)

    def ticks(self) -> tuple[float, ...]:
        """Return round numbers along the axis, not many."""
        if not self.logarithmic:
            return _linear(self.low, self.high)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for mantissas in _MANTISSAS:
            found = [m * 10.0**decade for decade in decades for m in mantissas]
            within = tuple(t for t in found if self.low <= t <= self.high)
            if len(within) <= _MOST_TICKS:
                break
        else:
            within = within[:: math.ceil(len(within) / _MOST_TICKS)]
        return within if len(within) > 2 else _linear(self.low, self.high)


def _linear(low: float, high: float) -> tuple[float, ...]:
    rough = (high - low) / (_MOST_TICKS - 2)
    decade = 10.0 ** math.floor(math.log10(rough))
    step = next(s * decade for s in _STEPS if s * decade >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return tuple(
        round(place * step, 12) for place in range(first, math.floor(high / step + 1e-9) + 1)
    )


def around(values: Sequence[float], least_factor: float = 1.25) -> Scale:
    """Return a logarithmic scale around 1 that holds all values, and some room beside them."""
    low, high = min(1.0, *values), max(1.0, *values)
    return Scale(
        min(low / 1.08, 1 / least_factor), max(high * 1.08, least_factor), logarithmic=True
    )
