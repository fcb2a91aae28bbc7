"""A plugin: a backend and a score_mod of one's own, searched and checked like the others.

    python -m search run --plugin docs/plugin_example.py \
        --backend chunked,flash --score-mod none,recency:64

The backend attends to a few hundred keys at a time with a running softmax, so that the score
matrix never exists (Rabe and Staats, arXiv:2112.05682), in PyTorch operations alone. It has no
CUDA declaration: what is not declared is not tried, and `search support` says so.
"""

from __future__ import annotations

import torch
from torch import Tensor

from variants.backends import BACKENDS, Attention, Backend, Support, Takes
from variants.backends.backend import AdditiveBias, Prepared
from variants.caches import StepPosition
from variants.kv_dtypes import KeyValue
from variants.score_mods import SCORE_MODS, BoundScoreMod, ScoreMod, causal

CHUNK = 256  # keys


# An operator of its own, so that the profiler can tell that it ran: that is a backend's proof.
@torch.library.custom_op("plugin_example::chunked_attention", mutates_args=())
def chunked_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
) -> Tensor:
    """Return softmax(QKᵀ · scale + bias)V, `(batch, q_heads, q_len, head_dim)`."""
    batch, q_heads, q_len, head_dim = query.shape
    kv_heads, kv_len = key.shape[1], key.shape[2]
    # Grouped heads become more rows: keys and values are not repeated.
    rows = (query * scale).reshape(batch, kv_heads, -1, head_dim)
    largest = torch.full((batch, q_heads, q_len, 1), torch.finfo(torch.float32).min)
    total = torch.zeros_like(largest)
    out = torch.zeros(batch, q_heads, q_len, head_dim)
    for start in range(0, kv_len, CHUNK):
        keys = slice(start, min(kv_len, start + CHUNK))
        scores = (rows @ key[:, :, keys].transpose(2, 3)).view(batch, q_heads, q_len, -1).float()
        if bias is not None:
            scores = scores + bias[..., keys]
        larger = torch.maximum(largest, scores.amax(dim=-1, keepdim=True))
        weights, shrink = torch.exp(scores - larger), torch.exp(largest - larger)
        grouped = weights.to(value.dtype).view(batch, kv_heads, rows.shape[2], -1)
        out = out * shrink + (grouped @ value[:, :, keys]).view_as(query)
        total = total * shrink + weights.sum(dim=-1, keepdim=True)
        largest = larger
    return (out / total).to(query.dtype)


class ChunkedAttention(Prepared):
    """What the search prepares once for a layer, and then asks for each step."""

    def __init__(self, attention: Attention) -> None:
        """Build the bias of the steps that are known: causality and the score_mod."""
        self._bias, self._scale = AdditiveBias(attention), attention.scale

    @property
    def nbytes(self) -> int:
        """Bytes of the bias."""
        return self._bias.nbytes

    def mask(self, place: StepPosition) -> Tensor | None:
        """Return the bias of a step's rows."""
        return self._bias.of(place)

    def mask_at(self, position: Tensor) -> Tensor | None:
        """Return the bias of a row whose position only the device knows (CUDA graphs)."""
        return self._bias.at(position)

    def attend(self, query: Tensor, kv: KeyValue, mask: Tensor | None) -> Tensor:
        """Attend."""
        return chunked_attention(query, kv.key, kv.value, mask, self._scale)


BACKENDS.register(
    Backend(
        name="chunked",
        summary="a running softmax over chunks of keys",
        support={
            "cpu": Support(
                precisions=("fp32", "bf16"),
                takes=Takes.ADDITIVE,  # a bias, but no other change of scores
                grouped_heads=True,
                backward=False,
                inlined=False,  # not by torch.compile together with its layer
            )
        },
        prepare=ChunkedAttention,
        proof={"cpu": r"^plugin_example::chunked_attention$"},
    )
)


def _bind_recency(parameter: int, q_heads: int, device: torch.device) -> BoundScoreMod:
    def recency(score: Tensor, head: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score - (q_idx - kv_idx) / parameter

    return BoundScoreMod(recency, causal, additive=True)


SCORE_MODS.register(
    ScoreMod(
        name="recency",
        summary="a penalty of one for every N tokens of distance, the same for all heads",
        source="docs/plugin_example.py",
        additive=True,
        bind=_bind_recency,
        parameter="tokens",
        default=64,
        telling=8,
        relative=True,  # it looks at positions
    )
)
