"""Caches of transformers whose buffers and captured steps outlive them, for the next call."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from variants.deploy.captured_step import CapturedStep
from variants.deploy.model_cache import HeldInBuffers, ModelCache
from variants.deploy.step_state import NotCapturableError

HELD = "goldilocks_cached_kv"  # what a cache has for the attention, as an attribute of the keys


class BufferSet:
    """The memory of a whole model's cache, and the steps that were captured on it.

    A smaller batch uses the first sequences of the same memory, with steps of its own.
    """

    def __init__(self, full: ModelCache, capture: Callable[[ModelCache], CapturedStep]) -> None:
        """Keep the cache of the largest batch."""
        self._full, self._capture = full, capture
        self.steps: dict[int, CapturedStep] = {full.batch: capture(full)}

    @property
    def batch(self) -> int:
        """Sequences that there is room for."""
        return self._full.batch

    def step(self, batch: int, empty: Callable[[int, list[Any]], ModelCache]) -> CapturedStep:
        """Return the step of a batch, its cache empty."""
        if batch not in self.steps:
            self.steps[batch] = self._capture(empty(batch, self._full.buffers))
        found = self.steps[batch]
        found.cache.clear()
        return found


class BufferSets:
    """Those that no cache uses now. A set is taken by a cache and comes back when that is gone."""

    def __init__(
        self,
        empty: Callable[[int, list[Any] | None], ModelCache],
        capture: Callable[[ModelCache], CapturedStep],
    ) -> None:
        """Start with none.

        Args:
            empty: Makes a cache for a batch, in given buffers or in new ones.
            capture: Makes the step that is to be captured on a cache.
        """
        self._empty, self._capture = empty, capture
        self._known: weakref.WeakSet[BufferSet] = weakref.WeakSet()
        self._free: list[BufferSet] = []

    def take(self, batch: int) -> tuple[BufferSet, CapturedStep]:
        """Return a set with room for `batch` sequences, and its step for them."""
        large = [found for found in self._free if found.batch >= batch]
        if large:
            chosen = min(large, key=lambda found: found.batch)
            self._free.remove(chosen)
        else:
            self._free.clear()  # first, so that both never exist at once
            chosen = BufferSet(self._empty(batch, None), self._capture)
            self._known.add(chosen)
        return chosen, chosen.step(batch, self._empty)

    def give_back(self, unused: BufferSet) -> None:
        """Keep a set for the next cache."""
        self._free.append(unused)

    def forget(self) -> None:
        """Drop all that was captured, and the memory that no cache uses."""
        for step in self.steps():
            step.forget()
        self._free.clear()

    def steps(self) -> list[CapturedStep]:
        """Return all steps, those of caches in use included."""
        return [step for one in self._known for step in one.steps.values()]


class Lease:
    """What a cache has borrowed; nothing before its first tokens tell the batch."""

    def __init__(self, sets: BufferSets) -> None:
        """Borrow nothing yet."""
        self.sets = sets
        self.step: CapturedStep | None = None
        self._taken: BufferSet | None = None

    def cache_of(self, batch: int) -> ModelCache:
        """Return the cache to append to."""
        if self.step is None:
            self._taken, self.step = self.sets.take(batch)
        return self.step.cache

    def end(self) -> None:
        """Give back what was borrowed."""
        if self._taken is not None:
            self.sets.give_back(self._taken)
        self._taken = self.step = None


class Lent:
    """The same for the step itself, which always appends to one cache."""

    def __init__(self, cache: ModelCache) -> None:
        """Lend this one."""
        self._cache = cache

    def cache_of(self, batch: int) -> ModelCache:
        """Return the cache to append to."""
        return self._cache


class FixedLayer(CacheLayerMixin):  # type: ignore[misc] # of a package without types
    """One layer's cache in the form that transformers' `Cache` keeps."""

    is_compileable = False  # a graph needs no compiler, and its mask is our own
    is_croppable = False
    is_sliding = False  # all keys are kept
    supports_early_init = False

    def __init__(self, source: Lease | Lent, layer: int, capacity: int) -> None:
        super().__init__()
        self.is_initialized = True  # by its first tokens
        self._source, self._layer, self._capacity = source, layer, capacity

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the first tokens bring all that has to be known."""

    @property
    def _cache(self) -> ModelCache | None:
        if isinstance(self._source, Lease):
            return None if self._source.step is None else self._source.step.cache
        return self._source.cache_of(0)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append new tokens and return what the attention is to attend to."""
        cache = self._source.cache_of(key_states.shape[0])
        held = cache[self._layer].append(key_states, value_states)
        if not isinstance(held, HeldInBuffers):
            return key_states, value_states
        if not held.fixed and cache.kv_dtype.bits is None:
            # What is held must not hold what carries it.
            key, value = held.taken()
        else:
            key, value = (
                unreadable(part, held.place.kv_len, in_step=held.fixed)
                for part in (key_states, value_states)
            )
        # Both, so that it is seen where a model changes one of them before it attends.
        setattr(key, HELD, held)
        setattr(value, HELD, held)
        return key, value

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys the next call attends to, and the position of the first."""
        cache = self._cache
        if cache is None:
            return query_length, 0
        return cache.state.keys or cache[self._layer].length + query_length, 0

    def get_seq_length(self) -> Any:
        """Return how many tokens were seen: in a step, a tensor of the device."""
        cache = self._cache
        if cache is None:
            return 0
        return cache[self._layer].length if cache.state.keys is None else cache.state.position[0]

    def get_max_length(self) -> int:
        """Return how many tokens there is room for."""
        return self._capacity

    def reset(self) -> None:
        """Forget all tokens."""
        if self._cache is not None:
            self._cache[self._layer].clear()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put the sequences in the order of their beams."""
        if self._cache is not None:
            self._cache[self._layer].reorder(beam_idx)


class _Unreadable(Tensor):
    """Stands for keys or values that only this product's attention can read: of a shape alone."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("__get__", "size", "dim", "numel"):  # shape, dtype, device
            return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        raise cls._refusal(name)

    @staticmethod
    def _refusal(name: str) -> Exception:
        return ValueError(
            f"{name} of keys or values that a cache keeps in its own way (8 bits, pages, a ring): "
            f"the model changes them behind its cache, or its attention is not the deployment's. "
            f"Choose a cache that can be read (static or concat, kv_dtype same)"
        )


class _OfStep(_Unreadable):
    """The same in a captured step, which runs eagerly instead where a model reads them."""

    @staticmethod
    def _refusal(name: str) -> Exception:
        return NotCapturableError(f"the model changes keys or values behind its cache ({name})")


def unreadable(tensor: Tensor, tokens: int, *, in_step: bool = False) -> Tensor:
    """Return what has the shape that keys and values would have, and no data."""
    batch, heads, _, width = tensor.shape
    empty = torch.empty((batch, heads, tokens, width), dtype=tensor.dtype, device="meta")
    return empty.as_subclass(_OfStep if in_step else _Unreadable)


class CapturedCache(Cache):  # type: ignore[misc]
    """A cache whose decode steps are replayed. Its memory is given back when it is gone."""

    def __init__(self, sets: BufferSets, layers: int, capacity: int) -> None:
        """Borrow from `sets` what the first tokens ask for."""
        self.lease = Lease(sets)
        self.capacity = capacity
        super().__init__(layers=[FixedLayer(self.lease, i, capacity) for i in range(layers)])
        weakref.finalize(self, self.lease.end)

    def __deepcopy__(self, memo: object) -> CapturedCache:
        """Return a cache of its own with the same tokens, as for prompts that begin alike."""
        copied = CapturedCache(self.lease.sets, len(self.layers), self.capacity)
        if self.lease.step is not None:
            cache = self.lease.step.cache
            copied.lease.cache_of(cache.batch).copy_from(cache)
        return copied

    @property
    def length(self) -> int:
        """Tokens of a sequence seen so far."""
        return 0 if self.lease.step is None else self.lease.step.cache.length


def step_cache(cache: ModelCache, capacity: int) -> Any:
    """Return what a step gives the model as its cache."""
    lent = Lent(cache)
    return Cache(layers=[FixedLayer(lent, layer, capacity) for layer in range(len(cache))])
