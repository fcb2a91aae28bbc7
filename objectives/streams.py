"""On which CUDA streams steps are launched: those whose launches cost the GPU least.

Between kernels of which one waits for the other, the GPU reads and writes what the driver keeps
of their stream, it seems. Where that lies in memory is chance, of each stream in each process. On
an H100 there are near streams and far ones, a score or two of neighbours alike: 64 dependent
additions took 133–141 µs on the near ones and 142–151 µs on the far ones, and a decode step of
fifty small kernels 78–80 and 82–84 µs. A default stream is of either kind. Until a process uses a
second stream, all of that takes a twentieth less.

So every process uses many streams and launches on near ones, on several in turns where launching
is what takes the time: each adds chance of its own, as do the addresses of its memory.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from variants.graph import capture_stream

IN_TURNS = 4
A_PRIORITY = 32  # streams that PyTorch makes of each, all of them with the first that is asked for
CHAIN, REPEATS = 64, 3
HOLD_CYCLES = 1_500_000  # some 0.8 ms: longer than a host takes to launch the chain


@functools.cache
def near_streams() -> tuple[torch.cuda.Stream, ...]:
    """Return streams of this process on which launches cost its device least, the best first."""
    streams = _all_streams()
    work = torch.zeros(64, device="cuda")
    torch.cuda.synchronize()
    for stream in streams:  # behind this the clock is up, and launching as dear as it will be
        _chain_ms(stream, work, 1)
    costs = {stream: _chain_ms(stream, work, REPEATS) for stream in streams}
    return tuple(heapq.nsmallest(IN_TURNS, streams, key=costs.__getitem__))


def _all_streams() -> list[torch.cuda.Stream]:
    """Return those that PyTorch keeps for whoever asks, but for the one that captures."""
    least, greatest = torch.cuda.current_stream().priority_range()
    found = {}
    for priority in range(least, greatest - 1, -1):
        for _ in range(A_PRIORITY):
            stream = torch.cuda.Stream(priority=priority)
            found[stream.cuda_stream] = stream  # it hands each out again and again
    found.pop(capture_stream().cuda_stream, None)
    return list(found.values())


def _chain_ms(stream: torch.cuda.Stream, work: torch.Tensor, times: int) -> float:
    """Return what kernels take that wait for each other and do next to nothing, at best."""
    least = float("inf")
    with torch.cuda.stream(stream):
        for _ in range(times):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(HOLD_CYCLES)
            start.record()
            for _ in range(CHAIN):
                work.add_(1)
            end.record()
            end.synchronize()
            least = min(least, float(start.elapsed_time(end)))
    return least


class Turns:
    """Leads from one stream to the next, beginning with the current one."""

    def __init__(
        self,
        others: Sequence[Callable[[], AbstractContextManager[object]]],
        visit: Callable[[], object],
    ) -> None:
        """Args: `others` make streams current; `visit` runs everything once, then waits for it.

        What is allocated on one stream is not used for another: each is visited before it is
        timed, and those beyond the room for another are left out.
        """
        self._others, self._visit = list(others), visit
        self._visited = self._last = 0

    def next(self) -> AbstractContextManager[object]:
        """Return what makes the next stream current."""
        self._last = (self._last + 1) % (1 + len(self._others))
        if self._last > self._visited and not self._has_room(self._others[self._last - 1]):
            del self._others[self._last - 1 :]
            self._last = 0
        return self._others[self._last - 1]() if self._last else nullcontext()

    def _has_room(self, stream: Callable[[], AbstractContextManager[object]]) -> bool:
        try:
            with stream():
                self._visit()
        except torch.OutOfMemoryError:
            return False
        self._visited += 1
        return True
