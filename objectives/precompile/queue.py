"""What is compiled ahead: what a search is likely to try next, and what became of it.

Helpers take from it, one configuration each; whoever measures a configuration claims it first.
Nothing here starts a process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from variants.configuration import Configuration
from variants.executions import EXECUTIONS

# For a helper that compiles what is to be measured now: doing it twice takes longer. Not for
# ever, as it may hang.
PATIENCE_S = 30.0


@dataclass
class Tally:
    """What compiling ahead did in a run."""

    compiled: int = 0
    compile_s: float = 0.0  # of helpers, with the time in which they were stopped
    met: int = 0  # of them, by trials
    met_s: float = 0.0  # of the first steps of those trials, and of waiting for helpers
    missed: int = 0  # trials that compiled for themselves
    missed_s: float = 0.0  # of their first steps

    def line(self) -> str:
        """Return what it did in a line; nothing where nothing was compiled by anyone."""
        if not self.compiled + self.missed:
            return ""
        return "; ".join(
            f"{words}: {count}" + (f" ({spent_s / count:.1f} s each)" if count else "")
            for words, count, spent_s in (
                ("compiled ahead", self.compiled, self.compile_s),
                ("met by trials, in their first steps", self.met, self.met_s),
                ("compiled by trials themselves", self.missed, self.missed_s),
            )
        )


class Agenda:
    """What helpers compile, each distinct compilation once. Safe among threads."""

    def __init__(self) -> None:
        """Nothing is wished for yet."""
        self.tally = Tally()
        self._wished: dict[str, Configuration] = {}  # the likeliest first
        self._in_flight: set[str] = set()
        self._taken: set[str] = set()  # by helpers and by those who measure
        self._compiled: dict[str, float] = {}  # by helpers, in so many seconds
        self._behind = False  # whoever measures had to compile, or to wait
        self._changed = threading.Condition()

    def wish(self, likely: Sequence[Configuration]) -> None:
        """Replace what is wished for by what is now likely to be tried, the likeliest first."""
        with self._changed:
            by_key = {_key(one): one for one in likely if one.variant.compiles}
            self._wished = {k: one for k, one in by_key.items() if k not in self._taken}
            self._changed.notify_all()

    def take(self, over: Callable[[], bool]) -> Configuration | None:
        """Wait for a wish and take it; None once it is `over`, see `wake`.

        Where helpers are behind, the likeliest is left to the one who measures: it gets there
        before they are done, and would only wait.
        """
        with self._changed:
            self._changed.wait_for(lambda: over() or self._wished)
            if over():
                return None
            first, *others = self._wished
            key = others[0] if others and self._behind else first
            self._taken.add(key)
            self._in_flight.add(key)
            return self._wished.pop(key)

    def wake(self) -> None:
        """Have those who wait look again whether it is over."""
        with self._changed:
            self._changed.notify_all()

    def finish(self, configuration: Configuration, seconds: float | None) -> None:
        """Note that a helper compiled what it took, or, without seconds, that it could not."""
        key = _key(configuration)
        with self._changed:
            self._in_flight.discard(key)
            if seconds is not None:
                self._compiled[key] = seconds
                self.tally.compiled += 1
                self.tally.compile_s += seconds
            self._changed.notify_all()

    def claim(self, configuration: Configuration) -> float:
        """Keep a configuration for the one who measures it now; wait for a helper that has it.

        Returns the seconds of waiting.
        """
        if not configuration.variant.compiles:
            return 0.0
        key, before = _key(configuration), time.monotonic()
        with self._changed:
            self._wished.pop(key, None)
            self._taken.add(key)
            self._behind = key not in self._compiled
            self._changed.wait_for(lambda: key not in self._in_flight, PATIENCE_S)
        return time.monotonic() - before

    def compiled_in(self, configuration: Configuration) -> float | None:
        """Return the seconds in which a helper compiled a configuration, if one did."""
        with self._changed:
            return self._compiled.get(_key(configuration))

    def count(self, configuration: Configuration, spent_s: float) -> None:
        """Count a trial by what its first step took, with waiting for a helper."""
        if not configuration.variant.compiles:
            return
        with self._changed:
            if _key(configuration) in self._compiled:
                self.tally.met += 1
                self.tally.met_s += spent_s
            else:
                self.tally.missed += 1
                self.tally.missed_s += spent_s


def _key(configuration: Configuration) -> str:
    """Return what is equal for configurations that compile the same.

    A run has one layer, however many the workload has. FlexAttention by itself does not see the
    projections.
    """
    workload = configuration.workload.model_copy(update={"layers": 1})
    variant = configuration.variant
    if not EXECUTIONS[variant.execution].compiles:
        variant = variant.model_copy(update={"quantization": "none"})
    return f"{workload.key} {variant.key}"
