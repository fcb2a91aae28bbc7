"""The backends of `F.scaled_dot_product_attention`, each forced, and `auto`, which is not.

Limits are those of torch 2.11 to 2.13, read in `sdp_utils.cpp` and checked on an H100.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

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
from variants.turns import Turns

if TYPE_CHECKING:
    import torch
    from torch.nn.attention import SDPBackend

    from variants.caches import StepPosition
    from variants.kv_dtypes import KeyValue


class SdpaMask(NamedTuple):
    """A dense bias, or whether the call is a whole causal prompt."""

    bias: torch.Tensor | None
    is_causal: bool


_PROMPT, _UNMASKED = SdpaMask(None, True), SdpaMask(None, False)


class SdpaAttention(Prepared):
    """`F.scaled_dot_product_attention` held to one of its backends, or to none."""

    def __init__(self, attention: Attention, backend_name: str | None) -> None:
        """Build the dense bias where `is_causal` does not say it all."""
        import torch.nn.functional as F
        from torch.nn.attention import SDPBackend

        self._forced = None if backend_name is None else getattr(SDPBackend, backend_name)
        self._turn = _TURNS.of(self._forced)
        self._sdpa = F.scaled_dot_product_attention
        self._attention = attention
        self._grouped, self._scale = attention.grouped, attention.scale
        self._plain = attention.plain
        known = bool(attention.places)
        prompts = known and all(map(self._whole_prompt, attention.places))
        self._bias = None if prompts else AdditiveBias(attention)

    def _whole_prompt(self, place: StepPosition) -> bool:
        """Tell whether `is_causal` says it all: it aligns top-left, wrong behind a cache."""
        return (
            place.position == 0
            and place.q_len == place.kv_len
            and self._plain
            and place.visible is None
        )

    @property
    def nbytes(self) -> int:
        return 0 if self._bias is None else self._bias.nbytes

    def mask(self, place: StepPosition) -> SdpaMask:
        if self._bias is not None and self._attention.sees_all(place):
            return _UNMASKED
        if self._bias is None or self._whole_prompt(place):
            return _PROMPT
        return SdpaMask(self._bias.of(place), False)

    def mask_at(self, position: torch.Tensor) -> SdpaMask:
        return SdpaMask(None if self._bias is None else self._bias.at(position), False)

    def attend(self, query: torch.Tensor, kv: KeyValue, mask: SdpaMask) -> torch.Tensor:
        import torch

        # Inside of what a compiler sees: its caches do not know from outside which backend was
        # asked for, and would hand out another one's code (pytorch #185449).
        with _switched(self._forced) if torch.compiler.is_compiling() else self._turn:
            return self._sdpa(
                query,
                kv.key,
                kv.value,
                attn_mask=mask.bias,
                is_causal=mask.is_causal,
                scale=self._scale,
                enable_gqa=self._grouped,
            )


def _switched(backend: SDPBackend | None) -> AbstractContextManager[Any]:
    """Return PyTorch's own way of forcing a backend; None forces none."""
    from torch.nn.attention import sdpa_kernel

    return nullcontext() if backend is None else sdpa_kernel(backend)


class _OnlyOne:
    """Does what `sdpa_kernel` does, which costs the host more than the attention that is in it."""

    def __init__(self, backend: SDPBackend) -> None:
        import torch
        from torch.nn.attention import SDPBackend

        # Behind `torch.backends.cuda`, whose functions only call these.
        switches = torch._C
        found: tuple[tuple[SDPBackend, Callable[[], bool], Callable[[bool], None]], ...] = (
            (SDPBackend.MATH, switches._get_math_sdp_enabled, switches._set_sdp_use_math),
            (
                SDPBackend.FLASH_ATTENTION,
                switches._get_flash_sdp_enabled,
                switches._set_sdp_use_flash,
            ),
            (
                SDPBackend.EFFICIENT_ATTENTION,
                switches._get_mem_efficient_sdp_enabled,
                switches._set_sdp_use_mem_efficient,
            ),
            (
                SDPBackend.CUDNN_ATTENTION,
                switches._get_cudnn_sdp_enabled,
                switches._set_sdp_use_cudnn,
            ),
        )
        self._enabled, self._enable = next(
            (enabled, enable) for one, enabled, enable in found if one is backend
        )
        self._others = [(enabled, enable) for one, enabled, enable in found if one is not backend]
        self._switched_on = False
        self._switched_off: list[Callable[[bool], None]] = []

    def __enter__(self) -> None:
        if not self._enabled():
            self._switched_on = True
            self._enable(True)
        off = []
        for enabled, enable in self._others:
            if enabled():
                enable(False)
                off.append(enable)
        self._switched_off = off

    def __exit__(self, *error: object) -> None:
        for enable in self._switched_off:
            enable(True)
        if self._switched_on:
            self._switched_on = False
            self._enable(False)


@functools.cache
def _turned(backend: SDPBackend | None) -> AbstractContextManager[Any]:
    return nullcontext() if backend is None else _OnlyOne(backend)


# Which backends may run is one setting of the process, also inside of `sdpa_kernel`.
_TURNS = Turns(_turned)


def _prepare_sdpa(backend_name: str | None) -> Callable[[Attention], Prepared]:
    return functools.partial(SdpaAttention, backend_name=backend_name)


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
    holds_scores=True,
    proof={
        "cpu": r"^aten::_scaled_dot_product_attention_math|^graph_\d+_cpp_fused_.*_safe_softmax",
        "cuda": r"^aten::_scaled_dot_product_attention_math|^triton_.*_safe_softmax",
    },
    inductor_options={"cpu": AS_WRITTEN | NAMED_CPU_KERNELS, "cuda": AS_WRITTEN},
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
    plans_each_shape=True,
)
