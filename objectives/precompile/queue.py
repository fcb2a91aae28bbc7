"""The queue of configurations to compile before they are tried, and statistics of it.

A search puts in what it is likely to try next. Compiling processes take one configuration each;
whoever measures a configuration claims it first. Nothing here starts a process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from variants.configuration import Configuration
from variants.executions import EXECUTIONS

# Seconds to wait for a process that compiles what is to be measured now: compiling it twice takes
# longer. Not for ever, as it may hang.
PATIENCE_S = 30.0


@dataclass
class PrecompileStats:
    """How many configurations of a run were compiled ahead, and the time that they took."""

    compiled: int = 0
    compile_s: float = 0.0  # with the time in which the compiling processes were stopped
    met: int = 0  # of them, by trials
    met_s: float = 0.0  # of the first steps of those trials, and of waiting for the compilation
    missed: int = 0  # trials that compiled for themselves
    missed_s: float = 0.0  # of their first steps

    def line(self) -> str:
        """Return the statistics in a line; empty where nothing was compiled by anyone."""
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


class CompileQueue:
    """Configurations to compile ahead, each distinct compilation once. Safe among threads."""

    def __init__(self) -> None:
        self.stats = PrecompileStats()
        self._wished: dict[str, Configuration] = {}  # the likeliest first
        self._in_flight: set[str] = set()
        self._taken: set[str] = set()  # to be compiled, and by those who measure
        self._compiled: dict[str, float] = {}  # ahead, in so many seconds
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

        Where compiling is behind measuring, the likeliest is left to the one who measures: it
        gets there before the compilation is done, and would only wait.
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
        """Note that what was taken is compiled or, without seconds, that it could not be."""
        key = _key(configuration)
        with self._changed:
            self._in_flight.discard(key)
            if seconds is not None:
                self._compiled[key] = seconds
                self.stats.compiled += 1
                self.stats.compile_s += seconds
            self._changed.notify_all()

    def claim(self, configuration: Configuration) -> float:
        """Keep a configuration for the one who measures it now; wait where it is being compiled.

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
        """Return the seconds in which a configuration was compiled ahead; None if it was not."""
        with self._changed:
            return self._compiled.get(_key(configuration))

    def count(self, configuration: Configuration, spent_s: float) -> None:
        """Count a trial by what its first step took, with waiting for its compilation."""
        if not configuration.variant.compiles:
            return
        with self._changed:
            if _key(configuration) in self._compiled:
                self.stats.met += 1
                self.stats.met_s += spent_s
            else:
                self.stats.missed += 1
                self.stats.missed_s += spent_s


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
