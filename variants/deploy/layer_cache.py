"""The keys and values of one layer of a loaded model: append new tokens, then attend to all."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from variants.caches import (
    CACHES,
    CacheKind,
    CacheOverflowError,
    CacheShape,
    KVCache,
    StaticCache,
    StepPosition,
)
from variants.deploy.model_choice import ModelChoice
from variants.kv_dtypes import KV_DTYPES, Codec, KeyValue


class Layout(NamedTuple):
    """Heads and widths of keys and values."""

    key_heads: int
    head_dim: int
    value_heads: int
    value_dim: int


class CachedKV:
    """What a call attends to, and where its queries stand: keys and values of standard shapes."""

    codec: Codec | None = None  # its scales come back on queries and outputs
    windowed = False  # a window of keys is all that there is, in no order
    paged = False  # keys are found through a table
    # One row at a position that only the device knows: `length` is the end of its range.
    fixed = False
    carried = False  # keys and values were given away, and come back to `attend`

    def __init__(self, place: StepPosition, kv: KeyValue) -> None:
        """Take keys and values; `kv_len` of `place` counts them."""
        self.place, self.length, self._kv = place, place.kv_len, kv
        key, value = kv.key.shape, kv.value.shape
        self.layout = Layout(key[1], key[3], value[1], value[3])

    @classmethod
    def given(cls, query: Tensor, key: Tensor, value: Tensor) -> CachedKV:
        """Return tensors of standard shapes; the queries are the last tokens.

        Raises:
            ValueError: There are more queries than keys.
        """
        q_len, kv_len = query.shape[2], key.shape[2]
        if q_len > kv_len:
            raise ValueError(
                f"queries are the last tokens of the keys, so that there are no more than those; "
                f"got {q_len} queries and {kv_len} keys"
            )
        return cls(StepPosition(kv_len - q_len, q_len, kv_len), KeyValue(key, value))

    def whole(self) -> CachedKV:
        """Return the same with the whole buffer, where it lies in one that was allocated once."""
        return self

    def read(self, stored: bool) -> KeyValue:
        """Return keys and values: as they are stored, or in the layer's type but for scales."""
        return self._kv

    def taken(self) -> list[Tensor]:
        """Give keys and values away: this keeps none, and `attend` is given them with it."""
        raise NotImplementedError

    def in_order(self, visible: Tensor) -> Tensor:
        """Return a mask over the last tokens in the order in which keys are kept."""
        return visible

    def visible(self, score_mod: str, given: Tensor | None) -> Tensor | None:
        """Return which keys the rows see: what a caller has given, but for a fixed step."""
        return given


class KeepsKeys(Protocol):
    """What attention needs of a cache."""

    def append(self, key: Tensor, value: Tensor) -> CachedKV:
        """Store new tokens and return all to attend to."""


class CachedPlanes(CachedKV):
    """Planes of a cache, which are read when it is known which backend will read them."""

    def __init__(
        self,
        cache: KVCache,
        codec: Codec,
        place: StepPosition,
        planes: list[Tensor],
        layout: Layout,
        windowed: bool = False,
    ) -> None:
        """Take what a cache gave to attend to after its last token."""
        self.place, self.length, self.codec, self.layout = place, cache.length, codec, layout
        self.windowed, self.paged = windowed, place.table is not None
        self._cache, self._planes = cache, planes

    def whole(self) -> CachedKV:
        cache = self._cache
        if not isinstance(cache, StaticCache) or self.place.q_len != 1:
            return self
        assert self.codec is not None
        place = cache.place_of(cache.shape._replace(whole=True), self.length - 1)
        return CachedPlanes(cache, self.codec, place, cache.planes, self.layout)

    def taken(self) -> list[Tensor]:
        planes, self._planes, self.carried = self._planes, [], True
        return planes

    def read(self, stored: bool) -> KeyValue:
        assert self.codec is not None
        return KeyValue(*self._planes) if stored else self.codec.decode(self._planes)

    def in_order(self, visible: Tensor) -> Tensor:
        if not self.windowed:
            return visible
        kept = self.place.kv_len
        return visible.roll((self.length - kept) % kept, dims=-1)


class LayerCache:
    """Grows by what is appended, up to `capacity` tokens.

    Made for its batch by the first call, which brings the prompt.
    """

    def __init__(self, model: ModelChoice, *, capacity: int, window: int | None = None) -> None:
        """Prepare a cache as the model's choice says.

        Args:
            model: Names the cache and its kv_dtype.
            capacity: Tokens of a sequence, prompt and answer together.
            window: Keys that a query sees, where the layer has a sliding_window.

        Raises:
            ValueError: The choice has no cache, or one for windows where the layer has none.
        """
        if model.cache is None or CACHES[model.cache].cache is None:
            raise ValueError(
                f"cache must be one that is kept, got {model.cache}: give the attention the keys "
                f"and values of all tokens at each step instead"
            )
        self.kind: CacheKind = CACHES[model.cache]
        if self.kind.windowed and window is None:
            raise ValueError(f"cache {self.kind.name} needs a layer with a sliding_window")
        self.capacity = capacity
        self.window = window if self.kind.windowed else None
        self._kv_dtype = KV_DTYPES[model.kv_dtype or "same"]
        # Whether what `append` returns are keys and values in order, in the layer's type.
        self.readable = not (self.kind.windowed or self.kind.paged or self._kv_dtype.bits)
        self._cache: KVCache | None = None
        self._codec: Codec | None = None
        self._layout: Layout | None = None
        self._one: tuple[torch.Size, torch.Size] | None = None  # shapes of one more token

    @property
    def length(self) -> int:
        """Tokens seen so far."""
        return 0 if self._cache is None else self._cache.length

    @property
    def nbytes(self) -> int:
        """Bytes that it holds now, scales included."""
        if self._cache is None or self._codec is None:
            return 0
        return self._cache.nbytes + self._codec.nbytes

    def kept(self, tokens: int) -> int:
        """Return how many of `tokens` tokens the cache still holds."""
        return tokens if self.window is None else min(tokens, self.window, self.capacity)

    def reset(self) -> None:
        """Forget all tokens; the next ones may be of another batch."""
        self._cache = self._codec = self._one = None

    def append(self, key: Tensor, value: Tensor) -> CachedKV:
        """Store new tokens, `(batch, kv_heads, tokens, head_dim)`, and return all to attend to.

        Raises:
            CacheOverflowError: They do not fit.
            ValueError: Several tokens are appended behind others, which a window cannot take; or
                keys and values do not go together, or not with those before.
        """
        cache = self._cache
        if (
            cache is not None
            and (key.shape, value.shape) == self._one
            and cache.length < self.capacity
        ):
            return self._append_one(cache, key, value)
        batch, heads, tokens, width = key.shape
        if value.shape[:3] != (batch, heads, tokens):
            raise ValueError(
                f"keys and values must be of as many sequences, heads and tokens, got "
                f"{tuple(key.shape)} and {tuple(value.shape)}"
            )
        if self.length + tokens > self.capacity:
            raise CacheOverflowError(
                f"the cache has room for {self.capacity} tokens and holds {self.length}; "
                f"{tokens} more do not fit"
            )
        if cache is None:
            return self._start(key, value)
        own, codec = cache.shape, self._codec
        assert codec is not None
        # Else they would be spread over the sequences and heads that there are.
        if (batch, heads, width) != (own.batch, own.kv_heads, codec.head_dim):
            raise ValueError(
                f"keys must be of {own.batch} sequences and {own.kv_heads} heads of "
                f"{codec.head_dim}, as the prompt's were; got {tuple(key.shape)}"
            )
        if tokens == 1:
            return self._append_one(cache, key, value)
        if self.kind.windowed:
            raise ValueError(
                f"cache {self.kind.name} takes one token at a time after the prompt, got {tokens}"
            )
        for index in range(tokens - 1):
            part = slice(index, index + 1)
            self._append_one(cache, key[:, :, part], value[:, :, part])
        held = self._append_one(cache, key[:, :, -1:], value[:, :, -1:])
        held.place = held.place._replace(position=held.place.position + 1 - tokens, q_len=tokens)
        return held

    def _start(self, key: Tensor, value: Tensor) -> CachedKV:
        batch, kv_heads, tokens, head_dim = key.shape
        codec = self._kv_dtype.codec(
            batch, kv_heads, head_dim, key.dtype, key.device, value_dim=value.shape[3]
        )
        assert self.kind.cache is not None
        shape = CacheShape(batch, kv_heads, self.capacity, self.window)
        cache = self.kind.cache(codec.planes(), shape, tokens, key.device)
        with torch.no_grad():
            for sequence in range(batch):
                own = slice(sequence, sequence + 1)
                codec.calibrate(sequence, key[own], value[own])
                cache.fill(sequence, codec.encode(key[own], value[own], sequence))
        self._codec, self._cache = codec, cache
        self._layout = Layout(kv_heads, head_dim, kv_heads, value.shape[3])
        self._one = key[:, :, :1].shape, value[:, :, :1].shape
        # The prompt attends to itself, as it is: nothing of it was rounded or dropped yet.
        return CachedKV(StepPosition(0, tokens, tokens), KeyValue(key, value))

    def _append_one(self, cache: KVCache, key: Tensor, value: Tensor) -> CachedKV:
        codec, layout = self._codec, self._layout
        assert codec is not None
        assert layout is not None
        place = cache.place()
        planes = cache.append(codec.encode(key, value), place)
        cache.length += 1
        return CachedPlanes(cache, codec, place, planes, layout, self.kind.windowed)
