"""How fast the host launches at the moment: a fixed piece of what launching a step is made of.

Launches from the same core take a tenth more or twice as long when others work on the machine:
its clocks fall, and caches, memory and the way to the device are shared. A loop of Python shows
the clocks alone. What shows the rest is work of the same kind: on an H100's host this piece and
the steps launched beside it slowed down together.
"""

from __future__ import annotations

import statistics
import time
from collections import deque

import torch

LAUNCHES, OPERATIONS, ADDITIONS = 16, 30, 2000  # on the device, on the CPU, of Python numbers


class Yardstick:
    """Launches, small operations on the CPU, and plain Python, always the same."""

    def __init__(self, device: torch.device) -> None:
        """Allocate what is worked on, some bytes."""
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
# Where the yardstick took a quarter longer than usual on an H100's host, steps took up to twice as
# long: what is in the way then is not of the yardstick's kind, and it passes within seconds. Of
# 264 trials beside up to 1.15 of the usual, 5 were beside more than 1.1: with them host times of
# one configuration were up to 22 % apart, without them 15 %.
DISTURBED = 1.1


class Usual:
    """What a yardstick took beside the last trials. Where it is much more, others are in the way.

    A host that has become slower for good is usual again some trials later.
    """

    def __init__(self) -> None:
        """Nothing is usual yet."""
        self._lately: deque[float] = deque(maxlen=REMEMBERED)  # ms

    def is_exceeded(self, taken_ms: float) -> bool:
        """Tell whether a yardstick of `taken_ms` is far from usual."""
        enough = len(self._lately) >= LEAST
        return enough and taken_ms > DISTURBED * statistics.median(self._lately)

    def learn(self, taken_ms: float) -> None:
        """Take in what was found beside one more trial."""
        self._lately.append(taken_ms)
