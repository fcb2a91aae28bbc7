"""Where the host's part of a step is timed: on a core that runs at full speed.

A core whose sibling thread is busy, with another process or another virtual machine, runs at half
its speed, for seconds or for minutes, and everything that is launched from it takes twice as
long. Which cores those are changes all the time; on a machine of several cores some are free.
A piece of work that is always the same tells, and also by how little the clocks differ of those
that are.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from types import TracebackType

FULL = 0.925  # of the highest speed that was seen: clocks differ by less, a busy sibling by more
LOOKED_AT = 16  # cores at most, each time
REPEATS = 3  # of the work on each: the first finds cold caches
REST = 10.0  # times as long as a look that found none is not looked again


def _work() -> float:
    """Return the seconds of something that is always the same and needs no memory."""
    least = float("inf")
    for _ in range(REPEATS):
        before, total = time.perf_counter(), 0
        for number in range(2000):
            total += number & 3
        least = min(least, time.perf_counter() - before)
    return least


class Cores:
    """Keeps the calling thread on a core at full speed, as a context, and lets it go at the end.

    Where the operating system does not let a thread choose, it stays where it is, and whatever
    speed that has passes for full.
    """

    def __init__(
        self,
        near: frozenset[int] = frozenset(),
        work: Callable[[], float] = _work,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is known of the cores yet.

        Args:
            near: Those on the device's side of the machine; the others are not taken where the
                thread may run on any of these.
            work: Returns the seconds of a fixed piece of it.
            now: The clock.
        """
        self._near = near
        self._work, self._now = work, now
        self._least: float | None = None  # seconds of the work; known once all were looked at
        self._home: set[int] = set()
        self._settled = False  # on one core
        self._resting_until = 0.0
        self._order = random.Random(0)

    def __enter__(self) -> Cores:
        """Remember where the thread may run."""
        self._home, self._settled = os.sched_getaffinity(0), False
        return self

    def settle(self) -> float:
        """Stay on this core if it is at full speed; else move to one that is, or to the best.

        Returns what `speed` would.
        """
        if len(self._home) < 2:
            return 1.0
        share = self.speed()
        begin = self._now()
        if self._settled and (share >= FULL or begin < self._resting_until):
            return share
        return self._look(begin)

    def speed(self) -> float:
        """Return this core's speed as a share of the highest that was seen on any."""
        if self._least is None:
            return 1.0
        return self._share(self._work())

    def _look(self, begin: float) -> float:
        cores, seconds = sorted(self._home & self._near or self._home), dict[int, float]()
        for core in self._order.sample(cores, min(LOOKED_AT, len(cores))):
            if not _moved_to({core}):
                _moved_to(self._home)
                self._home, self._least = set(), None
                return 1.0
            seconds[core] = self._work()
            # Until all were looked at, full speed is not known.
            if self._least is not None and self._share(seconds[core]) >= FULL:
                self._settled = True
                return self._share(seconds[core])
        best = min(seconds, key=seconds.__getitem__)
        self._settled = _moved_to({best})
        share = self._share(seconds[best])
        if share < FULL:
            self._resting_until = self._now() + REST * (self._now() - begin)
        return share

    def _share(self, seconds: float) -> float:
        self._least = seconds if self._least is None else min(self._least, seconds)
        return self._least / seconds

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the thread run wherever it could before."""
        if len(self._home) > 1:
            _moved_to(self._home)


def _moved_to(cores: set[int]) -> bool:
    """Let the calling thread run on these cores alone. Returns whether that is allowed."""
    try:
        os.sched_setaffinity(0, cores)
    except OSError:
        return False
    return True
