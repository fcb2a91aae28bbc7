"""A model of transformers without what a study measures of it: projections, cache and attention.

What is left is all else that a token costs: norms, rotary embedding, MLP, embedding, head, and
what `generate` does. Needs transformers: `pip install '.[hf]'`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

try:
    from transformers import AttentionInterface
    from transformers.cache_utils import Cache, CacheLayerMixin
except ImportError as error:  # the rest of the product does without
    raise ImportError("a whole model needs transformers: pip install '.[hf]'") from error

from variants.layer.layer import PROJECTIONS

_NAME = "nothing_is_attended_to"


def attention_layers(model: nn.Module) -> list[Any]:
    """Return the modules of a model that hold q_proj, k_proj, v_proj and o_proj."""
    return [
        found
        for found in model.modules()
        if all(isinstance(getattr(found, name, None), nn.Module) for name in PROJECTIONS)
    ]


@contextmanager
def only_the_rest(model: nn.Module) -> Iterator[None]:
    """Make attention layers compute nothing that a study measures, until the end of the block.

    Projections return zeros that are there, attention returns its queries, and a decode step
    leaves the cache alone. The model's attention implementation stays what it is, so that masks
    are made, and steps captured, as ever.
    """
    layers = attention_layers(model)
    AttentionInterface.register(_NAME, _nothing)
    before = [(dict(vars(layer)), dict(layer._modules)) for layer in layers]
    try:
        for layer in layers:
            for name in PROJECTIONS:
                setattr(layer, name, _Zeros(layer.get_submodule(name)))
            layer.config = copy.copy(layer.config)
            layer.config._attn_implementation = _NAME
            layer.forward = _leaving_the_cache(layer.forward)
        yield
    finally:
        for layer, (attributes, modules) in zip(layers, before, strict=True):
            vars(layer).clear()
            vars(layer).update(attributes)
            layer._modules.clear()
            layer._modules.update(modules)


class _Zeros(nn.Module):
    """Returns zeros of a projection's shape, without computing anything."""

    def __init__(self, projection: Any) -> None:
        super().__init__()
        weight = next(iter(projection.parameters()), None)
        dtype, device = (None, None) if weight is None else (weight.dtype, weight.device)
        self._zeros = torch.zeros(1, 1, projection.out_features, dtype=dtype, device=device)

    def forward(self, hidden: Tensor) -> Tensor:
        if self._zeros.dtype is not hidden.dtype or self._zeros.device != hidden.device:
            self._zeros = self._zeros.to(
                hidden
            )  # of a projection whose weight is stored otherwise
        return self._zeros.expand(*hidden.shape[:-1], -1)


def _nothing(module: nn.Module, query: Tensor, *given: Any, **others: Any) -> tuple[Tensor, None]:
    return query.transpose(1, 2), None


def _leaving_the_cache(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a layer's forward that appends to a fixed cache with its prompt only.

    What counts tokens alone is told of all: see `counting_cache`.
    """

    def forward(hidden_states: Tensor, *given: Any, **others: Any) -> Any:
        cache = others.get("past_key_values")
        if hidden_states.shape[1] == 1 and not isinstance(cache, _CountingCache):
            others["past_key_values"] = None
        return original(hidden_states, *given, **others)

    return forward


class _CountingLayer(CacheLayerMixin):  # type: ignore[misc] # of a package without types
    """Counts tokens, and keeps none."""

    is_sliding = False
    supports_early_init = False

    def __init__(self) -> None:
        super().__init__()
        self.is_initialized, self._length = True, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: there is nothing to keep."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Count new tokens."""
        self._length += key_states.shape[2]
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys there would be."""
        return self._length + query_length, 0

    def get_seq_length(self) -> int:
        """Return how many tokens were counted."""
        return self._length

    def get_max_length(self) -> int:
        """Return that there is no limit."""
        return -1


class _CountingCache(Cache):  # type: ignore[misc] # of a package without types
    """One that costs no memory and next to no time."""


def counting_cache(model: Any) -> Any:
    """Return a cache for `past_key_values=` that counts tokens and keeps none."""
    layers = model.config.get_text_config(decoder=True).num_hidden_layers
    return _CountingCache(layers=[_CountingLayer() for _ in range(layers)])
