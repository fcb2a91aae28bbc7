"""What the kernels of packages compute, written out: fakes of them call this on a CPU.

Each call is checked as the packages check theirs, and recorded in `CALLS`.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor

CALLS: list[dict[str, Any]] = []
PAGE = 128

# As tokenspeed-fa3 3.0.0.post20260810 registers it; fa3-fwd 0.0.3 has no sinks.
FA3_SCHEMA = (
    "fwd(Tensor q,Tensor k,Tensor v,Tensor(k_new!)? k_new = None,Tensor(v_new!)? v_new = None,"
    "Tensor? q_v = None,Tensor(out!)? out = None,Tensor? cu_seqlens_q = None,"
    "Tensor? cu_seqlens_k = None,Tensor? cu_seqlens_k_new = None,Tensor? seqused_q = None,"
    "Tensor? seqused_k = None,int? max_seqlen_q = None,int? max_seqlen_k = None,"
    "Tensor? page_table = None,Tensor? kv_batch_idx = None,Tensor? leftpad_k = None,"
    "Tensor? rotary_cos = None,Tensor? rotary_sin = None,Tensor? seqlens_rotary = None,"
    "Tensor? q_descale = None,Tensor? k_descale = None,Tensor? v_descale = None,"
    "float? softmax_scale = None,bool is_causal = False,int window_size_left = -1,"
    "int window_size_right = -1,int attention_chunk = 0,float softcap = 0.0,"
    "bool is_rotary_interleaved = False,Tensor? scheduler_metadata = None,int num_splits = 0,"
    "bool? pack_gqa = None,int sm_margin = 0{sinks}) -> (Tensor(out!), Tensor, Tensor, Tensor)"
)


class Flags(NamedTuple):
    """What was compiled into a build of FlashAttention-3."""

    fp16: bool
    local: bool
    softcap: bool
    paged: bool


def register_fa3(namespace: str, flags: Flags, sinks: str) -> torch.library.Library:
    """Register `namespace::fwd` for CPUs."""
    library = torch.library.Library(namespace, "DEF")
    library.define(FA3_SCHEMA.format(sinks=sinks))

    def forward(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        arguments = schema.arguments[3:]
        given = {argument.name: argument.default_value for argument in arguments}
        given |= dict(zip(given, rest, strict=False))
        CALLS.append({"build": namespace, "q": query, "k": key, "v": value, **given})
        _check_fa3(query, key, value, given, flags)
        out = _fa3(query, key, value, given)
        nothing = torch.empty(0)
        return out, nothing, nothing.clone(), nothing.clone()

    library.impl("fwd", forward, "CPU")
    schema = getattr(torch.ops, namespace).fwd.default._schema
    return library


def _check_fa3(
    query: Tensor, key: Tensor, value: Tensor, given: dict[str, Any], flags: Flags
) -> None:
    assert query.dtype == key.dtype == value.dtype, "must have the same dtype"
    assert query.dtype in (torch.bfloat16, torch.float16, torch.float8_e4m3fn)
    for tensor in (query, key, value):
        assert tensor.stride(-1) == 1, "Input tensor must have contiguous last dimension"
        assert tensor.dim() == 4
    multiple = 16 if query.dtype.itemsize == 1 else 8
    assert query.shape[3] % multiple == 0, "head_size should be a multiple"
    if query.dtype == torch.float16 and not flags.fp16:
        raise RuntimeError("This flash attention build does not support FP16.")
    if given["window_size_left"] >= 0 and not flags.local:
        raise RuntimeError("This flash attention build does not support local attention.")
    if given["softcap"] > 0 and not flags.softcap:
        raise RuntimeError("This flash attention build does not support tanh softcapping.")
    if given.get("page_table") is not None and not flags.paged:
        raise RuntimeError("This flash attention build does not support paged KV.")
    batch, kv_heads = query.shape[0], key.shape[2]
    for name in ("seqused_k", "page_table"):
        tensor = given.get(name)
        if tensor is not None:
            assert tensor.dtype == torch.int32, f"{name} must have dtype int32"
            assert tensor.shape[0] == batch
            assert tensor.stride(-1) == 1
    for name in ("q_descale", "k_descale", "v_descale"):
        scale = given.get(name)
        assert (scale is not None) == (query.dtype.itemsize == 1)
        if scale is not None:
            assert scale.shape == (batch, kv_heads), f"{name} must have shape (batch, kv_heads)"
            assert scale.dtype == torch.float32


def _fa3(query: Tensor, key: Tensor, value: Tensor, given: dict[str, Any]) -> Tensor:
    table, lengths = given.get("page_table"), given.get("seqused_k")
    batch, q_len, q_heads, _ = query.shape
    group = q_heads // key.shape[2]
    out = torch.empty(batch, q_len, q_heads, value.shape[3])
    for b, head in itertools.product(range(batch), range(q_heads)):
        own = head // group
        keys, values = (
            part[b, :, own] if table is None else part[table[b].long(), :, own].flatten(0, 1)
            for part in (key, value)
        )
        count = len(keys) if lengths is None else int(lengths[b])
        descales = [
            1.0 if given.get(name) is None else given[name][b, own].item()
            for name in ("q_descale", "k_descale", "v_descale")
        ]
        rows = query[b, :, head].float() * descales[0]
        scores = rows @ (keys[:count].float() * descales[1]).T * given["softmax_scale"]
        if given.get("softcap"):
            scores = given["softcap"] * torch.tanh(scores / given["softcap"])
        # Bottom-right: the last row stands at the last valid key.
        position = torch.arange(count - q_len, count)[:, None]
        column = torch.arange(count)
        left, right = given["window_size_left"], given["window_size_right"]
        seen = torch.ones(q_len, count, dtype=torch.bool)
        if given["is_causal"]:
            seen &= column <= position
        if left >= 0:
            seen &= column >= position - left
        if right >= 0:
            seen &= column <= position + right
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        out[b, :, head] = weights @ (values[:count].float() * descales[2])
    return out.to(torch.bfloat16 if query.dtype.itemsize == 1 else query.dtype)


def padded_attention(
    query: Tensor, key: Tensor, value: Tensor, lengths: Tensor, scale: float
) -> Tensor:
    """One row a sequence over its first `lengths` keys: what a graph with a padding mask does."""
    heads, kv_heads = query.shape[1], key.shape[1]
    out = torch.empty(*query.shape[:3], value.shape[3])
    for b, head in itertools.product(range(len(query)), range(heads)):
        count, own = int(lengths[b]), head // (heads // kv_heads)
        scores = query[b, head].float() @ key[b, own, :count].float().T * scale
        out[b, head] = scores.softmax(-1) @ value[b, own, :count].float()
    return out.to(query.dtype)
