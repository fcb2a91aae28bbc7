"""Queries rounded to float8, for kernels that multiply them with a float8 cache as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class RoundedQuery(NamedTuple):
    """Queries in float8_e4m3, `(batch, q_len, q_heads, head_dim)`, and what was taken out."""

    query: torch.Tensor
    scale: torch.Tensor  # float32, `(batch, kv_heads)`


def rounded_query(query: torch.Tensor, kv_heads: int) -> RoundedQuery:
    """Round `(batch, q_heads, q_len, head_dim)`; the largest of a group of heads comes to 448.

    In one launch on CUDA: beside the attention of a decode step every launch counts.
    """
    import torch

    batch, q_heads, q_len, head_dim = query.shape
    shape = (batch, q_len, q_heads, head_dim)
    rounded = torch.empty(shape, dtype=torch.float8_e4m3fn, device=query.device)
    scale = torch.empty(batch, kv_heads, dtype=torch.float32, device=query.device)
    if query.device.type == "cuda":
        from variants.backends.fp8_query_kernel import round_on_cuda

        round_on_cuda(query, rounded, scale)
    else:
        most = torch.finfo(torch.float8_e4m3fn).max
        numbers = query.float().unflatten(1, (kv_heads, -1))
        largest = numbers.abs().amax(dim=(2, 3, 4))
        scale.copy_(torch.where(largest > 0, largest / most, 1.0))
        numbers = (numbers / scale[:, :, None, None, None]).clamp(-most, most)
        rounded.copy_(numbers.flatten(1, 2).transpose(1, 2))
    return RoundedQuery(rounded, scale)
