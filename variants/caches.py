"""The cache axis: where the keys and values of past tokens are kept while decoding.

Notation: `(batch, kv_heads, length, head_dim)` is the shape of keys and values everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from variants.registry import Registry

if TYPE_CHECKING:
    import torch


class CacheOverflowError(RuntimeError):
    """A token was appended to a cache that is full."""


class KVCache(ABC):
    """Keys and values of the tokens seen so far."""

    def __init__(self, key: torch.Tensor, value: torch.Tensor, length: int, capacity: int) -> None:
        """Take over `key` and `value`, of which the first `length` tokens are valid."""
        self.key = key
        self.value = value
        self.length = length
        self.capacity = capacity

    @staticmethod
    @abstractmethod
    def allocated_tokens(length: int, capacity: int) -> int:
        """Return how many tokens' room the cache needs when it holds `length`."""

    @abstractmethod
    def append(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new tokens and return all keys and values, the new ones last.

        Raises:
            CacheOverflowError: There is no room for the new tokens.
        """

    @abstractmethod
    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens."""

    @property
    def nbytes(self) -> int:
        """Bytes that the cache holds now."""
        return self.key.nbytes + self.value.nbytes

    def _reserve(self, tokens: int) -> int:
        """Return the length after `tokens` more, or refuse."""
        if self.length + tokens > self.capacity:
            raise CacheOverflowError(
                f"the cache has room for {self.capacity} tokens and holds {self.length}; "
                f"{tokens} more do not fit"
            )
        return self.length + tokens


class ConcatCache(KVCache):
    """Grows by `torch.cat`: never larger than needed, but old and new exist at once in a step."""

    @staticmethod
    def allocated_tokens(length: int, capacity: int) -> int:
        return length

    def append(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        self.length = self._reserve(key.shape[2])
        self.key = torch.cat([self.key, key], dim=2)
        self.value = torch.cat([self.value, value], dim=2)
        return self.key, self.value

    def truncate(self, length: int) -> None:
        import torch

        # A copy, not a view: a view would keep the longer tensor alive.
        self.key = self.key[:, :, :length].clone(memory_format=torch.contiguous_format)
        self.value = self.value[:, :, :length].clone(memory_format=torch.contiguous_format)
        self.length = length


class StaticCache(KVCache):
    """Allocated once at full capacity; a step writes in place and attends to a slice."""

    @staticmethod
    def allocated_tokens(length: int, capacity: int) -> int:
        # One more: a slice that fills its buffer is contiguous, and compiled attention would
        # recompile for it at the last token.
        return capacity + 1

    def append(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        start, self.length = self.length, self._reserve(key.shape[2])
        self.key[:, :, start : self.length] = key
        self.value[:, :, start : self.length] = value
        return self.key[:, :, : self.length], self.value[:, :, : self.length]

    def truncate(self, length: int) -> None:
        self.length = length


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheKind:
    """One choice of the cache axis."""

    name: str
    summary: str
    cache: type[KVCache] | None  # None: no cache, each step recomputes all tokens


CACHES = Registry(
    "cache",
    [
        CacheKind(
            name="none",
            summary="no cache: each step recomputes the whole context",
            cache=None,
        ),
        CacheKind(
            name="concat",
            summary="grows by torch.cat at each step",
            cache=ConcatCache,
        ),
        CacheKind(
            name="static",
            summary="preallocated for the last step, written in place",
            cache=StaticCache,
        ),
    ],
)
