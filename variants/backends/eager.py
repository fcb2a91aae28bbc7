"""softmax(QKᵀ/√d)V written out with PyTorch operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from variants.backends.backend import (
    AS_WRITTEN,
    NAMED_CPU_KERNELS,
    AdditiveBias,
    Attention,
    Backend,
    Prepared,
    Support,
    Takes,
)

if TYPE_CHECKING:
    import torch

    from variants.caches import StepPosition
    from variants.kv_dtypes import KeyValue


class EagerMask(NamedTuple):
    """A dense bias and, where scores are changed in other ways, the positions of the rows."""

    bias: torch.Tensor | None
    q_idx: torch.Tensor | None  # (q_len, 1)


class EagerAttention(Prepared):
    """Holds the score matrix. Grouped heads become extra query rows, so K and V are not copied."""

    def __init__(self, attention: Attention) -> None:
        import torch

        self._bias = AdditiveBias(attention)
        self._score = None if attention.mod.additive else attention.mod.score
        self._scale = attention.scale
        self._groups = attention.q_heads // attention.kv_heads
        self._head = torch.arange(attention.q_heads, device=attention.device)[:, None, None]

    @property
    def nbytes(self) -> int:
        return self._bias.nbytes

    def mask(self, place: StepPosition) -> EagerMask:
        q_idx = None if self._score is None else place.rows(self._head.device)
        return EagerMask(self._bias.of(place), q_idx)

    def mask_at(self, position: torch.Tensor) -> EagerMask:
        return EagerMask(self._bias.at(position), position[:, None])

    def attend(self, query: torch.Tensor, kv: KeyValue, mask: EagerMask) -> torch.Tensor:
        import torch

        key, value = kv
        batch, q_heads, q_len, head_dim = query.shape
        kv_heads, kv_len = key.shape[1], key.shape[2]
        rows = query.reshape(batch, kv_heads, self._groups * q_len, head_dim)
        scores = torch.matmul(rows * self._scale, key.transpose(2, 3))
        scores = scores.view(batch, q_heads, q_len, kv_len)
        if self._score is not None:
            assert mask.q_idx is not None
            kv_idx = torch.arange(kv_len, device=query.device)
            scores = self._score(scores, self._head, mask.q_idx, kv_idx)
        if mask.bias is not None:
            scores = scores + mask.bias
        # In float32, as models do: a bfloat16 softmax over thousands of keys loses its sum.
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        out = torch.matmul(weights.view(batch, kv_heads, self._groups * q_len, kv_len), value)
        return out.view(batch, q_heads, q_len, head_dim)


EAGER = Backend(
    name="eager",
    summary="softmax(QKᵀ/√d)V written out; holds the whole score matrix",
    support={
        "cpu": Support(precisions=("fp32", "bf16", "fp16"), takes=Takes.ANY, grouped_heads=True),
        "cuda": Support(
            precisions=("fp32", "tf32", "bf16", "fp16"), takes=Takes.ANY, grouped_heads=True
        ),
    },
    prepare=EagerAttention,
    holds_scores=True,
    proof={
        "cpu": r"^aten::_softmax$|^graph_\d+_cpp_fused_.*_softmax",
        "cuda": r"^aten::_softmax$|^triton_.*_softmax",
    },
    inductor_options={"cpu": AS_WRITTEN | NAMED_CPU_KERNELS, "cuda": AS_WRITTEN},
)
