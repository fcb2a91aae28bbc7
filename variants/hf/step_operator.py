"""Attention and cache of one decode step as one operator, which a compiler does not look into.

What is compiled around it then holds for all lengths: position, range and kernel are decided
inside, by Python that runs when a step is captured.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from variants.deploy.dispatched_attention import DispatchedAttention
from variants.deploy.model_cache import ModelCache

_numbers = itertools.count()


class Stepping:
    """Which cache the steps of a model append to now. Known to compiled code by its number."""

    def __init__(self, attention: DispatchedAttention) -> None:
        """Attend by `attention`."""
        self.attention, self.cache = attention, None
        self.number = next(_numbers)
        _known[self.number] = self

    cache: ModelCache | None

    @contextmanager
    def on(self, cache: ModelCache) -> Iterator[None]:
        """Compute a step on this cache."""
        self.cache = cache
        try:
            yield
        finally:
            self.cache = None


_known: weakref.WeakValueDictionary[int, Stepping] = weakref.WeakValueDictionary()


# It changes nothing but the cache, which compiled code does not see. Layers stay in order, since
# each needs the output of the one before.
@torch.library.custom_op(
    "goldilocks::attend_in_step",
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, int step, int layer, str score_mod, "
    "float? scale) -> Tensor",
)
def attend_in_step(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    step: int,
    layer: int,
    score_mod: str,
    scale: float | None,
) -> Tensor:
    """Append a token's key and value to the cache of a layer, and attend to all that it holds.

    Args:
        query: `(batch, q_heads, 1, head_dim)`.
        key: `(batch, kv_heads, 1, head_dim)`.
        value: As key.
        step: Number of a `Stepping`.
        layer: Place among the cache's layers.
        score_mod: As in `--score-mod`.
        scale: Of the scores; 1/√head_dim if not given.

    Returns:
        `(batch, 1, q_heads, head_dim)`, contiguous.
    """
    stepping = _known[step]
    assert stepping.cache is not None
    held = stepping.cache[layer].append(key, value)
    out = stepping.attention.attend(query, held, None, score_mod, scale)
    return out.transpose(1, 2).contiguous()


@attend_in_step.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *others: object) -> Tensor:
    batch, heads, tokens, _ = query.shape
    return query.new_empty((batch, tokens, heads, value.shape[3]))
