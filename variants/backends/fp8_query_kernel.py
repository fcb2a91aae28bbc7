"""The rounding of queries to float8 as a kernel. Imported where there is CUDA, and Triton with it.

Triton reads its kernels' source: what they name must be known to this module.
"""

import torch
import triton
import triton.language as tl

MOST = tl.constexpr(448.0)  # of float8_e4m3
ROWS = 16  # at a time


@triton.jit  # type: ignore[untyped-decorator]
def _round(  # type: ignore[no-untyped-def]
    query,
    rounded,
    scale,
    by_sequence,
    by_head,
    by_row,
    q_len,
    kv_heads,
    group: tl.constexpr,
    width: tl.constexpr,
    padded: tl.constexpr,
    at_once: tl.constexpr,
):
    """Round the rows of one sequence that share a key/value head: `group` heads of `q_len` rows.

    The result is contiguous, `(batch, q_len, q_heads, width)`.
    """
    sequence = tl.program_id(0)
    kv_head = tl.program_id(1)
    column = tl.arange(0, padded)
    inside = column < width
    source = query + sequence * by_sequence + kv_head * group * by_head
    rows = group * q_len
    largest = tl.zeros((at_once, padded), dtype=tl.float32)
    for start in range(0, rows, at_once):
        row = start + tl.arange(0, at_once)
        place = (row % group) * by_head + (row // group) * by_row
        there = (row < rows)[:, None] & inside[None, :]
        found = tl.load(source + place[:, None] + column[None, :], mask=there, other=0.0)
        largest = tl.maximum(largest, tl.abs(found.to(tl.float32)))
    most = tl.max(tl.max(largest, axis=1), axis=0)
    factor = tl.where(most > 0, most / MOST, 1.0)
    tl.store(scale + sequence * kv_heads + kv_head, factor)
    target = rounded + (sequence * q_len * kv_heads + kv_head) * group * width
    for start in range(0, rows, at_once):
        row = start + tl.arange(0, at_once)
        place = (row % group) * by_head + (row // group) * by_row
        there = (row < rows)[:, None] & inside[None, :]
        found = tl.load(source + place[:, None] + column[None, :], mask=there, other=0.0)
        number = tl.clamp(found.to(tl.float32) / factor, -MOST, MOST)
        at = (row // group) * (kv_heads * group * width) + (row % group) * width
        tl.store(target + at[:, None] + column[None, :], number.to(tl.float8e4nv), mask=there)


def round_on_cuda(query: torch.Tensor, rounded: torch.Tensor, scale: torch.Tensor) -> None:
    """Fill `rounded` and `scale`; see `fp8_query.rounded_query`."""
    batch, q_heads, q_len, width = query.shape
    if query.stride(3) != 1:
        query = query.contiguous()
    kv_heads = scale.shape[1]
    group = q_heads // kv_heads
    _round[(batch, kv_heads)](
        query,
        rounded,
        scale,
        query.stride(0),
        query.stride(1),
        query.stride(2),
        q_len,
        kv_heads,
        group=group,
        width=width,
        padded=triton.next_power_of_2(width),
        at_once=min(ROWS, triton.next_power_of_2(group * q_len)),
    )
