"""Chooses the CPU core from which steps are launched: one that runs at full speed.

A core whose sibling thread is busy, with another process or another virtual machine, runs at half
its speed, for seconds or for minutes, and everything that is launched from it takes twice as
long. Which cores those are changes all the time; on a machine of several cores some are free.
How long a fixed loop takes tells which. What slows all cores down, `host_reference` tells.
Figures: docs/measuring.md, "cores"; `python -m benchmarks.host_estimators` measures them.

A backward pass is launched from a thread of autograd's, which goes where this one goes.
"""

from __future__ import annotations

import os
import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

FULL = 0.925  # of full speed: what clocks differ by usually, and no busy sibling
LOOKED_AT = 16  # cores at most, each time
REPEATS = 3  # of the work on each: the first finds cold caches
REST = 10.0  # after a look that found no core at full speed, for so many times what it took
REMEMBERED = 4096  # pieces of work, of a dozen trials at least
FASTEST = 0.05  # of those: what they took at most is full speed. One alone may be a burst of clock
REFRESH = 32  # pieces of work between two looks at what is remembered
AUTOGRAD = "pt_autograd_"  # begins the names of its threads


def _work() -> float:
    """Return the seconds of something that is always the same and needs no memory."""
    least = float("inf")
    for _ in range(REPEATS):
        before, total = time.perf_counter(), 0
        for number in range(2000):
            total += number & 3
        least = min(least, time.perf_counter() - before)
    return least


def _launching() -> tuple[int, ...]:
    """Return the threads from which steps are launched: this one, which is 0, and autograd's."""
    found = [0]
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended
            if (thread / "comm").read_text().startswith(AUTOGRAD):
                found.append(int(thread.name))
    return tuple(found)


class CoreSelector:
    """Keeps the calling thread on a core at full speed, as a context, and lets it go at the end.

    Where the operating system does not let a thread choose, it stays where it is, and whatever
    speed that has passes for full.
    """

    def __init__(
        self,
        near: frozenset[int] = frozenset(),
        work: Callable[[], float] = _work,
        now: Callable[[], float] = time.monotonic,
        launching: Callable[[], tuple[int, ...]] = _launching,
    ) -> None:
        """Keep how cores are looked at.

        Args:
            near: Those on the device's side of the machine; the others are not taken where the
                thread may run on any of these.
            work: Returns the seconds of a fixed piece of it.
            now: The clock.
            launching: Returns the threads that go along, as the operating system calls them.
        """
        self._near, self._work, self._now = near, work, now
        self._launching = launching
        self._threads: tuple[int, ...] = ()
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)  # of the work, lately
        self._count = 0
        self._full_s: float | None = None  # it takes at full speed, once a look has shown that
        self._home: set[int] = set()
        self._settled = False  # on one core
        self._resting_until = 0.0
        self._order = random.Random()  # of its own: two processes should not meet on each core

    def __enter__(self) -> CoreSelector:
        """Remember where the threads may run."""
        self._home, self._settled = os.sched_getaffinity(0), False
        self._threads = self._launching()
        return self

    def settle(self) -> float:
        """Stay on this core if it is at full speed; else move to one that is, or to the best.

        Returns its speed as a share of full speed.
        """
        if len(self._home) < 2:
            return 1.0
        share = self._speed() if self._settled else 0.0
        begin = self._now()
        if not self._settled or (share < FULL and begin >= self._resting_until):
            share = self._look(begin)
        return share

    def _look(self, begin: float) -> float:
        cores = sorted(self._home & self._near or self._home)
        known, seconds = self._full_s is not None, dict[int, float]()
        for core in self._order.sample(cores, min(LOOKED_AT, len(cores))):
            if not self._moved_to({core}):
                continue  # not allowed any more
            seconds[core] = self._timed()
            if known and self._share(seconds[core]) >= FULL:
                self._settled = True
                return self._share(seconds[core])
        if not seconds:
            self._home = set()
            return 1.0
        best = min(seconds, key=seconds.__getitem__)
        self._settled = self._moved_to({best})
        share = self._share(seconds[best])
        if share < FULL:
            self._resting_until = self._now() + REST * (self._now() - begin)
        return share

    def _speed(self) -> float:
        return self._share(self._timed())

    def _timed(self) -> float:
        """Do the work, and remember what it took."""
        seconds = self._work()
        self._seconds.append(seconds)
        self._count += 1
        if self._full_s is not None and self._count % REFRESH == 0:
            self._learn()
        return seconds

    def _learn(self) -> float:
        """Tell full speed from what is remembered."""
        ordered = sorted(self._seconds)
        self._full_s = ordered[int(FASTEST * len(ordered))]
        return self._full_s

    def _share(self, seconds: float) -> float:
        full_s = self._learn() if self._full_s is None else self._full_s
        return min(1.0, full_s / seconds)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the thread run wherever it could before."""
        if len(self._home) > 1:
            self._moved_to(self._home)

    def _moved_to(self, cores: set[int]) -> bool:
        """Let the threads run on these cores alone. Returns whether this one may."""
        this, *others = self._threads
        try:
            os.sched_setaffinity(this, cores)
        except OSError:
            return False
        for thread in others:
            with suppress(OSError):  # it has ended
                os.sched_setaffinity(thread, cores)
        return True
