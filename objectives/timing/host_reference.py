"""How fast the host is at the moment: the time of a fixed series of what launching consists of.

Launches from the same core take longer when others work on the machine: clocks fall, and caches,
memory and the way to the device are shared. A loop of Python would show the clocks alone; work of
the same kind as launching a step slows down as the step does. Stored as `yardstick_ms`. Figures:
docs/measuring.md, "the host reference"; `python -m benchmarks.host_estimators` measures them.
"""

from __future__ import annotations

import statistics
import time
from collections import deque

import torch

LAUNCHES, OPERATIONS, ADDITIONS = 16, 30, 2000  # on the device, on the CPU, of Python numbers


class HostReference:
    """A fixed piece of host work: kernel launches, small CPU operations and plain Python."""

    def __init__(self, device: torch.device) -> None:
        """Allocate what is worked on, some bytes, and do the work once to warm it up."""
        self._there = torch.ones(64, device=device)
        self._here = tuple(torch.ones(4) for _ in range(3))
        self()

    def __call__(self) -> float:
        """Do the work once. Returns the milliseconds until all of it is launched."""
        there, (one, other, out) = self._there, self._here
        before, total = time.perf_counter_ns(), 0
        for number in range(ADDITIONS):
            total += number & 3
        for _ in range(OPERATIONS):
            torch.add(one, other, out=out)
        for _ in range(LAUNCHES):
            there.add_(1)
        return (time.perf_counter_ns() - before) / 1e6


REMEMBERED, LEAST = 15, 5  # trials; fewer than the latter do not show what is usual
# Times the usual. Beyond it the steps slow down by much more than the reference does: scaling no
# longer helps, and what is in the way passes within seconds. Figures: docs/measuring.md,
# "disturbances"; `python -m benchmarks.repeats` measures them.
DISTURBED = 1.1


class RollingMedian:
    """The median of the host reference over the last trials, to tell a disturbed host.

    A host that has become slower for good is usual again some trials later.
    """

    def __init__(self) -> None:
        self._lately: deque[float] = deque(maxlen=REMEMBERED)  # ms

    def is_exceeded(self, taken_ms: float) -> bool:
        """Tell whether `taken_ms` is more than `DISTURBED` times the median."""
        enough = len(self._lately) >= LEAST
        return enough and taken_ms > DISTURBED * statistics.median(self._lately)

    def add(self, taken_ms: float) -> None:
        """Add what the host reference took beside one more trial."""
        self._lately.append(taken_ms)
