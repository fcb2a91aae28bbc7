"""The backends of `F.scaled_dot_product_attention`, each forced, and `auto`, which is not.

Limits are those of torch 2.11 to 2.13, read in `sdp_utils.cpp` and checked on an H100.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

from variants.backends.backend import AdditiveBias, Attention, Backend, Prepared, Support, Takes

if TYPE_CHECKING:
    import torch


def _prepare_sdpa(backend_name: str | None) -> Callable[[Attention], Prepared]:
    def prepare(attention: Attention) -> Prepared:
        import torch.nn.functional as F
        from torch.nn.attention import SDPBackend, sdpa_kernel

        forced = None if backend_name is None else getattr(SDPBackend, backend_name)
        grouped = attention.grouped
        # `is_causal` aligns top-left: right for a whole prompt, wrong behind a cache.
        whole_prompts = all(position == 0 for position, _, _ in attention.calls)
        use_is_causal = attention.plain and whole_prompts
        bias = None if use_is_causal else AdditiveBias(attention)

        def attend(
            query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, position: int
        ) -> torch.Tensor:
            mask = None if bias is None else bias.of(position, query.shape[2], key.shape[2])
            with nullcontext() if forced is None else sdpa_kernel(forced):
                return F.scaled_dot_product_attention(
                    query, key, value, attn_mask=mask, is_causal=use_is_causal, enable_gqa=grouped
                )

        return Prepared(attend, 0 if bias is None else bias.nbytes)

    return prepare


_CPU = ("fp32", "bf16", "fp16")
_ALL = ("fp32", "tf32", "bf16", "fp16")
_HALF = ("bf16", "fp16")

AUTO = Backend(
    name="auto",
    summary="SDPA choosing for itself; the baseline, never a choice of the search",
    support={
        "cpu": Support(precisions=_CPU, takes=Takes.ADDITIVE, grouped_heads=True),
        "cuda": Support(precisions=_ALL, takes=Takes.ADDITIVE, grouped_heads=True),
    },
    prepare=_prepare_sdpa(None),
    proof={},  # it is named after the backend that it resolves to
    searched=False,
)

MATH = Backend(
    name="math",
    summary="SDPA's unfused fallback; holds the score matrix in float32",
    support={
        "cpu": Support(precisions=_CPU, takes=Takes.ADDITIVE, grouped_heads=True),
        "cuda": Support(precisions=_ALL, takes=Takes.ADDITIVE, grouped_heads=True),
    },
    prepare=_prepare_sdpa("MATH"),
    proof={
        "cpu": r"^aten::_scaled_dot_product_attention_math",
        "cuda": r"^aten::_scaled_dot_product_attention_math",
    },
)

EFFICIENT = Backend(
    name="efficient",
    summary="memory-efficient attention (CUTLASS)",
    support={
        "cuda": Support(
            precisions=_ALL,
            takes=Takes.ADDITIVE,
            grouped_heads=False,
            min_capability=(5, 0),
            head_dim_multiple={"fp32": 4, "tf32": 4, "bf16": 8, "fp16": 8},
        ),
    },
    prepare=_prepare_sdpa("EFFICIENT_ATTENTION"),
    proof={"cuda": r"^aten::_scaled_dot_product_efficient_attention$"},
)

FLASH = Backend(
    name="flash",
    summary="FlashAttention-2 on CUDA, PyTorch's own flash kernel on CPU",
    support={
        "cpu": Support(precisions=_CPU, takes=Takes.ADDITIVE, grouped_heads=True),
        "cuda": Support(
            precisions=_HALF,
            takes=Takes.PLAIN,
            grouped_heads=True,
            min_capability=(8, 0),
            max_head_dim=(((0, 0), 256),),
        ),
    },
    prepare=_prepare_sdpa("FLASH_ATTENTION"),
    proof={
        "cpu": r"^aten::_scaled_dot_product_flash_attention_for_cpu$",
        "cuda": r"^aten::_scaled_dot_product_flash_attention$",
    },
)

CUDNN = Backend(
    name="cudnn",
    summary="cuDNN's fused attention; builds a plan for every new shape",
    support={
        "cuda": Support(
            precisions=_HALF,
            takes=Takes.ADDITIVE,
            grouped_heads=True,
            min_capability=(8, 0),
            head_dim_multiple={"bf16": 8, "fp16": 8},
            max_head_dim=(((0, 0), 128), ((9, 0), 256)),
        ),
    },
    prepare=_prepare_sdpa("CUDNN_ATTENTION"),
    proof={"cuda": r"^aten::_scaled_dot_product_cudnn_attention$"},
)
