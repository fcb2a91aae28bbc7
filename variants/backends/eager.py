"""softmax(QKᵀ/√d)V written out with PyTorch operations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from variants.backends.backend import AdditiveBias, Attention, Backend, Prepared, Support, Takes

if TYPE_CHECKING:
    import torch


def prepare_eager(attention: Attention) -> Prepared:
    """Keep the dense bias; grouped heads become extra query rows, so K and V are not copied."""
    import torch

    bias = AdditiveBias(attention)
    mod = attention.mod
    apply_score = None if mod.additive else mod.score
    scale = 1 / math.sqrt(attention.head_dim)
    groups = attention.q_heads // attention.kv_heads
    head = torch.arange(attention.q_heads, device=attention.device)[:, None, None]

    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, position: int
    ) -> torch.Tensor:
        batch, q_heads, q_len, head_dim = query.shape
        kv_heads, kv_len = key.shape[1], key.shape[2]
        rows = query.reshape(batch, kv_heads, groups * q_len, head_dim)
        scores = torch.matmul(rows * scale, key.transpose(2, 3))
        scores = scores.view(batch, q_heads, q_len, kv_len)
        if apply_score is not None:
            q_idx = torch.arange(position, position + q_len, device=query.device)[:, None]
            kv_idx = torch.arange(kv_len, device=query.device)
            scores = apply_score(scores, head, q_idx, kv_idx)
        added = bias.of(position, q_len, kv_len)
        if added is not None:
            scores = scores + added
        # In float32, as models do: a bfloat16 softmax over thousands of keys loses its sum.
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        out = torch.matmul(weights.view(batch, kv_heads, groups * q_len, kv_len), value)
        return out.view(batch, q_heads, q_len, head_dim)

    return Prepared(attend, bias.nbytes)


EAGER = Backend(
    name="eager",
    summary="softmax(QKᵀ/√d)V written out; holds the whole score matrix",
    support={
        "cpu": Support(precisions=("fp32", "bf16", "fp16"), takes=Takes.ANY, grouped_heads=True),
        "cuda": Support(
            precisions=("fp32", "tf32", "bf16", "fp16"), takes=Takes.ANY, grouped_heads=True
        ),
    },
    prepare=prepare_eager,
    proof={"cpu": r"^aten::_softmax$", "cuda": r"^aten::_softmax$"},
)
