"""The cache of one layer: planned when the layer is built, there once its context is filled in."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from variants.caches import CacheShape, KVCache, StepPosition
from variants.kv_dtypes import Codec, KeyValue


@dataclass(frozen=True)
class CachePlan:
    """The cache that a layer's decode steps read: its class, and what it is built for."""

    cache: type[KVCache]
    shape: CacheShape

    def place_of(self, length: int) -> StepPosition:
        """Return where a step stands that appends one token to `length`."""
        return self.cache.place_of(self.shape, length)


@dataclass(frozen=True)
class FilledCache:
    """A cache that holds the context, and the codec that was calibrated on it."""

    cache: KVCache
    codec: Codec
    reads_stored: bool  # the backend takes keys and values as the cache stores them

    def readable(self, planes: list[Tensor]) -> KeyValue:
        """Return what the backend is given of the planes that a step attends to."""
        return KeyValue(*planes) if self.reads_stored else self.codec.decode(planes)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, their scales included."""
        return self.cache.nbytes + self.codec.nbytes
