"""Attention as an operator that a compiler does not look into: it decides when it runs."""

from __future__ import annotations

import itertools
import weakref

import torch
from torch import Tensor

from variants.deploy.dispatched_attention import DispatchedAttention
from variants.deploy.layer_cache import CachedKV

_numbers = itertools.count()
_known: weakref.WeakValueDictionary[int, DispatchedAttention] = weakref.WeakValueDictionary()


def numbered(attention: DispatchedAttention) -> int:
    """Return the number by which compiled code knows an attention."""
    number = next(_numbers)
    _known[number] = attention
    return number


def given(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> CachedKV:
    """Return what is attended to where no cache of ours has it."""
    tokens = query.shape[2]
    if mask is None and tokens > 1:
        # A prompt, in a buffer that has room for more: see `sdpa_attention_forward`.
        key, value = key[:, :, :tokens], value[:, :, :tokens]
    return CachedKV.given(query, key, value)


@torch.library.custom_op(
    "goldilocks::attend",
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, Tensor? mask, int attention, str score_mod, "
    "float? scale) -> Tensor",
)
def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    attention: int,
    score_mod: str,
    scale: float | None,
) -> Tensor:
    """Attend as the attention of this number does, without gradients.

    Args:
        query: `(batch, q_heads, q_len, head_dim)`.
        key: `(batch, kv_heads, kv_len, head_dim)`.
        value: As key.
        mask: As for a call of the attention.
        attention: See `numbered`.
        score_mod: As in `--score-mod`.
        scale: Of the scores; 1/√head_dim if not given.

    Returns:
        `(batch, q_len, q_heads, head_dim)`, contiguous.
    """
    held = given(query, key, value, mask)
    out = _known[attention].attend(query, held, mask, score_mod, scale)
    return out.transpose(1, 2).contiguous()


@attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *others: object) -> Tensor:
    batch, heads, tokens, _ = query.shape
    return query.new_empty((batch, tokens, heads, value.shape[3]))
