"""The operators that SDPA comes to where it is held to one backend, called without asking it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.nn.attention import SDPBackend

    from variants.backends.backend import Attention, Unmasked


def unmasked(attention: Attention, backend: SDPBackend | None) -> Unmasked | None:
    """Return what attends one row that sees all keys, without gradients; None: only SDPA can.

    The operators check less than SDPA does, whose checks an earlier call of the same kind has
    passed.
    """
    import torch
    from torch.nn.attention import SDPBackend

    scale, grouped = attention.scale, attention.grouped
    # Of one kind each, without what unpacking arguments costs in every layer of every step.
    if backend is SDPBackend.MATH:
        math = torch._scaled_dot_product_attention_math
        return lambda q, k, v: math(q, k, v, scale=scale, enable_gqa=grouped)[0]
    if backend is SDPBackend.CUDNN_ATTENTION:
        cudnn = torch._scaled_dot_product_cudnn_attention
        return lambda q, k, v: cudnn(q, k, v, None, False, scale=scale)[0]
    if backend is not SDPBackend.FLASH_ATTENTION:
        return None
    flash: Any
    if attention.device.type == "cpu":
        flash = torch._scaled_dot_product_flash_attention_for_cpu
    elif attention.head_dim % 8 == 0:
        flash = torch._scaled_dot_product_flash_attention
    else:
        return None  # SDPA pads heads for it
    return lambda q, k, v: flash(q, k, v, scale=scale)[0]
