"""A step captured into a CUDA graph: launched as one, at lengths that only the device knows."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

WARM_UPS = 3  # before a capture: compilation, plans and workspaces must exist


@functools.cache
def capture_stream() -> torch.cuda.Stream:
    """Return the stream of all captures of this process.

    Always the same one: cuBLAS keeps a workspace for each stream, and a fresh stream would make
    its allocation part of whatever is measured.
    """
    return torch.cuda.Stream()


@contextmanager
def without_collection() -> Iterator[None]:
    """Keep the garbage collector from running: to free another graph ends a capture in error."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def empty_behind(nbytes: int, like: Tensor) -> Tensor:
    """Return memory shaped like a contiguous tensor, so many bytes into a block of its own."""
    block = torch.empty(nbytes + like.nbytes, dtype=torch.int8, device=like.device)
    return block[nbytes:].view(like.dtype).view(like.shape)


@contextmanager
def _drivers_memory() -> Iterator[None]:
    """Let the driver's lack of memory be the error that the allocator's is.

    What a graph's launches need is allocated beside the allocator.
    """
    try:
        yield
    except RuntimeError as error:
        if "out of memory" in str(error) and not isinstance(error, torch.OutOfMemoryError):
            raise torch.OutOfMemoryError(str(error)) from error
        raise


class Graph:
    """Captures `step(hidden, position)` and replays it on new inputs.

    `position` is an int64 tensor of one element that the step advances itself, so that a loop of
    steps launches nothing else.
    """

    def __init__(
        self, step: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, *, position: int = 0
    ) -> None:
        """Warm `step` up and capture it for inputs shaped like `hidden`."""
        self._hidden = hidden.clone()
        self._position = torch.tensor([position], device=hidden.device)
        self._expected = position
        stream = capture_stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                step(self._hidden, self._position)
                self._position.fill_(position)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        # A capture that fails leaves its stream current; the outermost context does not.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            without_collection(),
            torch.cuda.graph(self._graph, stream=stream),
        ):
            self._out = step(self._hidden, self._position)

    def move(self, step: Callable[[Tensor, Tensor], Tensor], position: int, nbytes: int) -> None:
        """Capture `step` again, its input so many bytes into a block of its own.

        A captured step keeps its addresses for good, and how long it takes depends on them. It is
        run once at `position`, on anything: what is launched for the first time is uploaded. The
        next replay must stand there, too. `step` is not kept: it would keep its layer, which keeps
        this.

        Raises:
            torch.OutOfMemoryError: There is no room for it. What was captured before is kept.
        """
        graph, stream = torch.cuda.CUDAGraph(), capture_stream()
        stream.wait_stream(torch.cuda.current_stream())
        # Not `torch.cuda.graph`, which empties the allocator's cache: others live from it.
        with torch.cuda.stream(stream), without_collection():
            graph.capture_begin(pool=self._graph.pool())
            try:
                hidden = empty_behind(nbytes, self._hidden)
                out = step(hidden, self._position)
            except BaseException:
                graph.capture_end()
                raise
            with _drivers_memory():
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        self._position.fill_(position)
        with _drivers_memory():
            graph.replay()
        self._position.fill_(position)
        self._graph, self._hidden, self._out = graph, hidden, out
        self._expected = position

    def replay(self, hidden: Tensor, position: int | None) -> Tensor:
        """Run the step on `hidden`. The output is overwritten by the next replay.

        `position` is where the step must stand (None where it has none); the device is told only
        when it is not where the last replay left it.
        """
        self._hidden.copy_(hidden)
        if position is not None:
            if position != self._expected:
                self._position.fill_(position)
            self._expected = position + 1
        self._graph.replay()
        return self._out
