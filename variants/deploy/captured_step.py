"""One decode step of a whole model as a CUDA graph, replayed at every length of its range."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from variants.deploy.key_range import key_range
from variants.deploy.model_cache import ModelCache, check_room
from variants.deploy.step_state import NotCapturableError
from variants.layer.graph import without_collection


class CaptureWarning(UserWarning):
    """Steps are launched one by one that were to be replayed; names the reason."""


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of all captures on a device: cuBLAS keeps a workspace for each stream."""
    return torch.cuda.Stream(device)


@contextmanager
def _refusing_to_wait() -> Iterator[None]:
    """Make an error of what would have the host wait for the device: no graph can hold it."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


class CapturedStep:
    """Calls `step` with static copies of its inputs and replays what was captured of it.

    `step(*inputs)` computes the logits (or any one tensor) of one new token of each sequence, its
    attention over `cache`. It is captured when it is first needed for a range of lengths
    (`key_range`), and launched operation by operation, as it stands, where there is no CUDA.
    """

    def __init__(
        self, step: Callable[..., Tensor], cache: ModelCache, *, pool: object | None = None
    ) -> None:
        """Capture nothing yet.

        Args:
            step: Must compute the same operations on the same tensors each time, but for what
                its inputs and the cache hold; what Python decides in it is decided once.
            cache: Already holds the prompt when the first step is asked for.
            pool: Memory of other graphs that never run at the same time (`graph_pool_handle`).
        """
        self.cache = cache
        self._step = step
        self._pool = pool
        self._inputs: list[Tensor] = []
        self._ways: dict[int, Callable[[], Tensor]] = {}
        self.refused: str | None = None  # why nothing is captured

    @property
    def ranges(self) -> tuple[int, ...]:
        """The ends of the ranges of lengths for which there is a step."""
        return tuple(sorted(self._ways))

    def forget(self) -> None:
        """Drop what was captured: something that it computed with is gone."""
        self._ways.clear()

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Compute the next token's step. The output is the caller's own.

        Where it cannot be captured, `step` is called as it is, and a `CaptureWarning` says why.

        Raises:
            CacheOverflowError: The cache is full.
            ValueError: The cache is empty, or inputs changed their shapes.
        """
        if self.refused is None:
            try:
                return self.replay(*inputs)
            except NotCapturableError as error:
                self.refused = str(error)
                warnings.warn(
                    f"steps are not captured, but launched one by one: {error}",
                    CaptureWarning,
                    stacklevel=2,
                )
        return self._step(*inputs)

    def replay(self, *inputs: Tensor) -> Tensor:
        """Do the same, but refuse what cannot be captured.

        Raises:
            NotCapturableError: The step waits for the device, or needs to know its position on
                the host. Nothing was counted as stored.
        """
        cache, length = self.cache, self.cache.length
        if length == 0:
            raise ValueError("the cache is empty: the prompt comes before the first step")
        check_room(length, 1, cache.capacity)
        keys = key_range(length + 1, cache.capacity)
        with torch.no_grad():
            self._take(inputs)
            cache.state.stand_at(length)
            way = self._ways.get(keys)
            if way is None:
                way = self._ways[keys] = self._prepare(keys, length)
            out = way()
        cache.state.stepped()
        cache.advance()
        return out

    def _take(self, inputs: tuple[Tensor, ...]) -> None:
        if not self._inputs:
            with torch.inference_mode(False):
                self._inputs = [given.clone() for given in inputs]
            return
        for own, given in zip(self._inputs, inputs, strict=True):
            if own.shape != given.shape or own.dtype is not given.dtype:
                raise ValueError(
                    f"inputs must keep shape and type, {tuple(own.shape)} of {own.dtype}; got "
                    f"{tuple(given.shape)} of {given.dtype}"
                )
            own.copy_(given, non_blocking=True)

    def _run(self, keys: int) -> Tensor:
        """Compute the step where the device stands, and advance it."""
        with self.cache.state.step(keys):
            return self._step(*self._inputs)

    def _prepare(self, keys: int, length: int) -> Callable[[], Tensor]:
        """Return what computes the step for one range of lengths."""
        device = self.cache.state.position.device
        if device.type != "cuda":
            return functools.partial(self._run, keys)
        try:
            with torch.cuda.device(device), torch.inference_mode(False), torch.no_grad():
                return self._captured(keys, length, _stream(device))
        except BaseException:
            self.cache.state.stand_unknown()
            raise

    def _captured(self, keys: int, length: int, stream: torch.cuda.Stream) -> Callable[[], Tensor]:
        position = self.cache.state.position
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Compiles and makes plans and workspaces. Its token is stored again by the replay.
            self._run(keys)
            position.fill_(length)
            try:
                with _refusing_to_wait():
                    self._run(keys)
                position.fill_(length)
                graph, out = self._recorded(keys)
            except RuntimeError as error:
                raise NotCapturableError(_first_line(error)) from error
        torch.cuda.current_stream().wait_stream(stream)

        def replay() -> Tensor:
            graph.replay()
            return out.clone()

        return replay

    def _recorded(self, keys: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        try:
            return self._record(keys)
        except torch.OutOfMemoryError:
            # The allocator cannot hand memory back while it captures.
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            return self._record(keys)

    def _record(self, keys: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        pool: Any = self._pool
        with without_collection():
            # Other threads of a program may allocate meanwhile.
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                out = self._run(keys)
            except BaseException:
                with suppress(RuntimeError):  # what ended the capture is told already
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph, out
