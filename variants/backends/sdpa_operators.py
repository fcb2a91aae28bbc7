"""The operators that SDPA comes to where it is held to one backend, called without asking it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch.nn.attention import SDPBackend

    from variants.backends.backend import Attention, Unmasked


def unmasked(attention: Attention, backend: SDPBackend | None) -> Unmasked | None:
    """Return what attends one row that sees all keys, without gradients; None: only SDPA can.

    The operators check less than SDPA does, whose checks an earlier call of the same kind has
    passed.
    """
    import torch
    from torch.nn.attention import SDPBackend

    scale = attention.scale
    operator: Any
    more: tuple[object, ...] = ()
    named: dict[str, object] = {"scale": scale}
    if backend is SDPBackend.MATH:
        operator = torch._scaled_dot_product_attention_math
        named["enable_gqa"] = attention.grouped
    elif backend is None or backend is SDPBackend.EFFICIENT_ATTENTION:
        return None
    elif backend is SDPBackend.CUDNN_ATTENTION:
        operator, more = torch._scaled_dot_product_cudnn_attention, (None, False)
    elif attention.device.type == "cpu":
        operator = torch._scaled_dot_product_flash_attention_for_cpu
    elif attention.head_dim % 8 == 0:
        operator = torch._scaled_dot_product_flash_attention
    else:
        return None  # SDPA pads heads for it

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = operator(query, key, value, *more, **named)[0]
        return out

    return attend
