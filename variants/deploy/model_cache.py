"""Keys and values of a whole model, for steps whose position only the device knows."""

from __future__ import annotations

import torch
from torch import Tensor

from variants.caches import CACHES, CacheOverflowError, CacheShape, StaticCache, StepPosition
from variants.deploy.layer_cache import CachedKV, Layout
from variants.deploy.model_choice import ModelChoice
from variants.deploy.step_state import NotCapturableError, StepState
from variants.kv_dtypes import KV_DTYPES, Codec, KeyValue, KvDtype


class HeldInBuffers(CachedKV):
    """Planes of a layer's buffers, which are read when it is known which backend will."""

    def __init__(
        self,
        codec: Codec,
        place: StepPosition,
        planes: list[Tensor],
        state: StepState | None = None,
    ) -> None:
        """Take the planes to attend to; of a step in its `state`, at a position of the device."""
        self.place, self.length, self.codec = place, place.kv_len, codec
        self.fixed = state is not None
        self._planes, self._state = planes, state
        heads = planes[0].shape[1]
        self.layout = Layout(heads, codec.head_dim, heads, codec.value_dim)

    def read(self, stored: bool) -> KeyValue:
        assert self.codec is not None
        return KeyValue(*self._planes) if stored else self.codec.decode(self._planes)

    def taken(self) -> list[Tensor]:
        planes, self._planes, self.carried = self._planes, [], True
        return planes

    def visible(self, score_mod: str, given: Tensor | None) -> Tensor | None:
        if self._state is None:
            return given
        if given is not None:
            raise NotCapturableError("the model makes a mask of its own in each step")
        return self._state.visible(score_mod)


class Buffers:
    """One layer's memory, allocated by the first keys that come."""

    def __init__(self, batch: int, capacity: int) -> None:
        """Keep room for so many sequences of so many tokens."""
        self.batch, self.capacity = batch, capacity
        self.planes: list[Tensor] = []

    def allocate(self, codec: Codec, kv_heads: int, device: torch.device) -> None:
        """Allocate, if that was not done."""
        if not self.planes:
            shape = CacheShape(self.batch, kv_heads, self.capacity)
            with torch.inference_mode(False):  # else only inference mode could write to them
                self.planes = StaticCache(codec.planes(), shape, 0, device).planes

    def clear(self, batch: int) -> None:
        """Zero the first sequences: hidden keys count for nothing, unless they are NaN."""
        for plane in self.planes:
            plane[:batch].zero_()


class StaticKVCache:
    """One layer's keys and values, in buffers whose addresses never change.

    New tokens go where the host says; inside of a step (`StepState.step`), where the device says.
    """

    def __init__(self, state: StepState, batch: int, buffers: Buffers, kv_dtype: KvDtype) -> None:
        """Use the first `batch` sequences of `buffers`."""
        self.length = 0  # tokens that the host knows of
        self._state, self._batch, self._buffers = state, batch, buffers
        self._kv_dtype = kv_dtype
        self._codec: Codec | None = None
        self._planes: list[Tensor] = []
        self._like: KeyValue | None = None  # keys and values without tokens

    @property
    def nbytes(self) -> int:
        """Bytes that it may use, scales included."""
        return sum(plane.nbytes for plane in self._planes) + (
            0 if self._codec is None else self._codec.nbytes
        )

    def append(self, key: Tensor, value: Tensor) -> CachedKV:
        """Store new tokens, `(batch, kv_heads, tokens, head_dim)`, and return all to attend to.

        Raises:
            CacheOverflowError: They do not fit.
            ValueError: They are of another batch than the cache.
        """
        if self._state.keys is not None:
            return self._append_at_position(key, value, self._state.keys)
        tokens, start = key.shape[2], self.length
        check_room(start, tokens, self._buffers.capacity)
        codec = self._started(key, value)
        with torch.no_grad():
            self._store(codec, key, value, start)
        self.length += tokens
        if start == 0:
            # A prompt attends to itself, as it is: nothing of it was rounded.
            return CachedKV(StepPosition(0, tokens, tokens), KeyValue(key, value))
        planes = [plane[:, :, : self.length] for plane in self._planes]
        return HeldInBuffers(codec, StepPosition(start, tokens, self.length), planes)

    def _append_at_position(self, key: Tensor, value: Tensor, keys: int) -> CachedKV:
        assert self._codec is not None
        at = self._state.position
        place = StepPosition(position=0, q_len=1, kv_len=keys, slot=at, at=at)
        new = self._codec.encode(key, value)
        return HeldInBuffers(
            self._codec, place, StaticCache.write(self._planes, new, place), self._state
        )

    def _started(self, key: Tensor, value: Tensor) -> Codec:
        batch, kv_heads, _, head_dim = key.shape
        if batch != self._batch:
            raise ValueError(f"the cache is for a batch of {self._batch}, got one of {batch}")
        if self._codec is None:
            # Of their own: a view would keep the whole prompt in memory.
            self._like = KeyValue(
                key.new_empty((batch, kv_heads, 0, head_dim)),
                value.new_empty((batch, kv_heads, 0, value.shape[3])),
            )
            with torch.inference_mode(False):
                self._codec = self._kv_dtype.codec(
                    batch, kv_heads, head_dim, key.dtype, key.device, value_dim=value.shape[3]
                )
            self._buffers.allocate(self._codec, kv_heads, key.device)
            self._planes = [plane[:batch] for plane in self._buffers.planes]
        return self._codec

    def _store(self, codec: Codec, key: Tensor, value: Tensor, start: int) -> None:
        stop = start + key.shape[2]
        if self._kv_dtype.bits is None:
            for plane, tokens in zip(self._planes, codec.encode(key, value), strict=True):
                plane[:, :, start:stop] = tokens
            return
        for sequence in range(self._batch):  # what encoding needs beside is of one sequence
            own = slice(sequence, sequence + 1)
            if start == 0:
                codec.calibrate(sequence, key[own], value[own])
            new = codec.encode(key[own], value[own], sequence)
            for plane, tokens in zip(self._planes, new, strict=True):
                plane[own, :, start:stop] = tokens

    def _scales(self) -> list[Tensor]:
        if self._codec is None:
            return []
        scales = (self._codec.key_scale, self._codec.value_scale)
        return [scale for scale in scales if scale is not None]

    def reorder(self, order: Tensor) -> None:
        """Put other sequences in the place of these, as beam search does."""
        with torch.no_grad():
            for held in (*(plane[:, :, : self.length] for plane in self._planes), *self._scales()):
                held.copy_(held.index_select(0, order))

    def copy_from(self, other: StaticKVCache) -> None:
        """Hold the tokens of another cache of the same kind and batch."""
        if other._like is not None:
            self._started(*other._like)
            for own, held in zip(self._planes, other._planes, strict=True):
                own[:, :, : other.length] = held[:, :, : other.length]
            for own, held in zip(self._scales(), other._scales(), strict=True):
                own.copy_(held)
        self.length = other.length

    def clear(self) -> None:
        """Forget all tokens."""
        self.length = 0
        self._buffers.clear(self._batch)


class ModelCache:
    """The caches of all layers of a model, `cache[layer]`, for a batch that all start at once.

    A `CapturedStep` replays one decode step on it; a prompt, and whatever else is appended by
    calling the model itself, is launched as usual.
    """

    def __init__(
        self,
        model: ModelChoice,
        *,
        layers: int,
        batch: int,
        capacity: int,
        device: torch.device,
        buffers: list[Buffers] | None = None,
    ) -> None:
        """Prepare empty caches; memory is allocated by the first tokens.

        Args:
            model: Names the cache and its kv_dtype.
            layers: Of the model.
            batch: Sequences.
            capacity: Tokens of a sequence, prompt and answer together.
            device: Where the model is.
            buffers: Memory of another cache, of which the first `batch` sequences are used.

        Raises:
            ValueError: The choice has no cache that can be written where only the device knows.
        """
        if model.cache is None or not CACHES[model.cache].fixed:
            fixed = " or ".join(kind.name for kind in CACHES.values() if kind.fixed)
            raise ValueError(
                f"cache must be {fixed}, which can be written at a position that only the device "
                f"knows; got {model.cache}"
            )
        self.batch, self.capacity = batch, capacity
        self.kv_dtype = KV_DTYPES[model.kv_dtype or "same"]
        self.state = StepState(batch, capacity, device)
        self.buffers = buffers or [Buffers(batch, capacity) for _ in range(layers)]
        self._layers = [
            StaticKVCache(self.state, batch, own, self.kv_dtype) for own in self.buffers
        ]

    def __getitem__(self, layer: int) -> StaticKVCache:
        return self._layers[layer]

    def __len__(self) -> int:
        return len(self._layers)

    @property
    def length(self) -> int:
        """Tokens of a sequence seen so far, as the host knows it."""
        return self._layers[0].length

    @property
    def nbytes(self) -> int:
        """Bytes that it may use."""
        return sum(layer.nbytes for layer in self._layers)

    def positions(self, tokens: int) -> Tensor:
        """Return the positions of the next tokens, `(tokens,)`: what a model asks for first."""
        if self.state.keys is not None:
            return self.state.position
        device = self.state.position.device
        return torch.arange(self.length, self.length + tokens, device=device)

    def pad(self, mask: Tensor | None) -> None:
        """Hide padding from steps; a prompt's own mask goes to its attention.

        Args:
            mask: `(batch, tokens)`, zero where a token is padding; None where there is none.
        """
        self.state.pad(mask)

    def advance(self) -> None:
        """Count a token that a step has stored."""
        for layer in self._layers:
            layer.length += 1

    def reorder(self, order: Tensor) -> None:
        """Put other sequences in the place of these, as beam search does."""
        for layer in self._layers:
            layer.reorder(order)

    def copy_from(self, other: ModelCache) -> None:
        """Hold the tokens of another cache of the same model and batch."""
        for layer, held in zip(self._layers, other._layers, strict=True):
            layer.copy_from(held)

    def clear(self) -> None:
        """Forget all tokens; the memory is kept."""
        self.state.pad(None)
        for layer in self._layers:
            layer.clear()


def check_room(length: int, tokens: int, capacity: int) -> None:
    """Refuse tokens that do not fit.

    Raises:
        CacheOverflowError: They do not.
    """
    if length + tokens > capacity:
        raise CacheOverflowError(
            f"the cache has room for {capacity} tokens and holds {length}; {tokens} more do not "
            f"fit"
        )
