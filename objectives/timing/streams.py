"""On which CUDA streams steps are launched: those whose launches cost the GPU least.

How long dependent small kernels take depends on their stream, by chance, and differs from process
to process. So every process looks for fast streams and launches on those, on several in turns
where launching is what takes the time. Their chance averages out as that of memory addresses does.
Figures: docs/measuring.md, "streams"; `python -m benchmarks.repeats` measures them.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch

from objectives.metrics.memory import settle
from variants.layer.graph import capture_stream

T = TypeVar("T")
IN_TURNS = 4
STREAMS_A_PRIORITY = 32  # PyTorch makes all of them with the first that is asked for
CHAIN, REPEATS = 64, 3
# Spins of about 0.8, 3 and 12 ms: longer than a host takes to launch the chain, and what slow ones
# may need.
HOLD_CYCLES = (1_500_000, 6_000_000, 24_000_000)


@functools.cache
def fast_streams() -> tuple[torch.cuda.Stream, ...]:
    """Return `IN_TURNS` streams on which dependent kernels run fastest, the fastest first."""
    streams = _all_streams()
    work = torch.zeros(64, device="cuda")
    torch.cuda.synchronize()
    for stream in streams:  # raises the clock, and uses every stream once
        _chain_ms(stream, work, HOLD_CYCLES[0], 1)
    return tuple(fastest(streams, lambda one, hold: _chain_ms(one, work, hold, REPEATS)))


def fastest(streams: Sequence[T], cost: Callable[[T, int], float]) -> list[T]:
    """Return the streams of least cost, the least first.

    `cost` is infinite where a hold of so many cycles is too short; if it is for most, longer ones
    are tried.
    """
    costs: list[float] = []
    for hold in HOLD_CYCLES:
        costs = [cost(stream, hold) for stream in streams]
        if 2 * sum(map(math.isfinite, costs)) > len(streams):
            break
    order = heapq.nsmallest(IN_TURNS, range(len(streams)), key=costs.__getitem__)
    return [streams[number] for number in order]


def _all_streams() -> list[torch.cuda.Stream]:
    """Return all streams of PyTorch's pool, without the one that captures."""
    least, greatest = torch.cuda.current_stream().priority_range()
    found = {}
    for priority in range(least, greatest - 1, -1):
        for _ in range(STREAMS_A_PRIORITY):
            stream = torch.cuda.Stream(priority=priority)
            found[stream.cuda_stream] = stream  # it hands each out again and again
    found.pop(capture_stream().cuda_stream, None)
    return list(found.values())


def _chain_ms(stream: torch.cuda.Stream, work: torch.Tensor, hold: int, times: int) -> float:
    """Return the least GPU time, of some repeats, of a chain of small dependent kernels.

    Infinite if holding the stream for `hold` cycles was too short to launch all of them.
    """
    least = math.inf
    with torch.cuda.stream(stream):
        for _ in range(times):
            held, start, end = (torch.cuda.Event(enable_timing=True) for _ in range(3))
            torch.cuda._sleep(hold)
            held.record()
            start.record()
            for _ in range(CHAIN):
                work.add_(1)
            end.record()
            was_held = not held.query()
            end.synchronize()
            if was_held:
                least = min(least, float(start.elapsed_time(end)))
    return least


class StreamRotation:
    """Makes one stream after the other current, in rotation, beginning with the current one."""

    def __init__(
        self,
        others: Sequence[Callable[[], AbstractContextManager[object]]],
        visit: Callable[[], object],
    ) -> None:
        """Keep the streams to rotate over.

        What is allocated on one stream is not used for another: each is visited before it is
        timed, and where memory has no room for another the rest are left out.

        Args:
            others: Contexts that make a stream current, each.
            visit: Runs everything once, and waits for it.
        """
        self._others, self._visit = list(others), visit
        self._visited = self._last = 0

    def next(self) -> AbstractContextManager[object]:
        """Return what makes the next stream current."""
        self._last = (self._last + 1) % (1 + len(self._others))
        if self._last > self._visited and not self._has_room(self._others[self._last - 1]):
            del self._others[self._last - 1 :]
            self._last = 0
        return self.same()

    def same(self) -> AbstractContextManager[object]:
        """Return what makes the stream of the last turn current again."""
        return self._others[self._last - 1]() if self._last else nullcontext()

    def _has_room(self, stream: Callable[[], AbstractContextManager[object]]) -> bool:
        """Visit a stream. False if that did not fit beside what the others keep."""
        before = _retries()
        try:
            with stream():
                self._visit()
            has_room = _retries() == before
        except torch.OutOfMemoryError:
            has_room = False
        if has_room:
            self._visited += 1
        else:
            settle()  # what the first stream frees and needs again is allocated once more
        return has_room


def _retries() -> int:
    """Return how often the allocator gave up what it had kept, to make room for something."""
    return int(torch.cuda.memory_stats().get("num_alloc_retries", 0))
