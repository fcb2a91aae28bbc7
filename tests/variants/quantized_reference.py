"""The reference of a quantized variant: what its own 8-bit numbers say, attended in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from variants.kv_dtypes import KV_DTYPES
from variants.layer.inputs import random_hidden
from variants.layer.layer import AttentionLayer
from variants.layer.reference import reference_attention
from variants.layer.run import Run


def quantized_reference(run: Run, seed: int) -> Tensor:
    """Return what `reference_results` calls `out`, for the projections and the kv_dtype of `run`.

    The quantized modules are given what the variant gives them, since some scale all tokens of a
    step together. In between, without a cache, is the reference's attention.
    """
    layer, workload = run.layer, run.configuration.workload
    device, dtype = layer.device, layer.precision.dtype
    hidden = torch.stack(
        [random_hidden(workload, i, device, seed).to(dtype) for i in range(workload.batch)]
    )
    with torch.inference_mode(), layer.precision.applied():
        if not workload.decodes:
            return _attended(layer, hidden, *_projected(layer, hidden), 0).double().cpu()
        steps = range(workload.seq_len, workload.capacity)
        if not layer.reuses_cache:
            outs = []
            for now in steps:
                seen = hidden[:, : now + 1]
                outs.append(_attended(layer, seen, *_projected(layer, seen), 0)[:, -1:])
            return torch.cat(outs, dim=1).double().cpu()
        context = [
            _projected(layer, hidden[i : i + 1, : workload.seq_len]) for i in range(workload.batch)
        ]
        parts = [tuple(torch.cat(part) for part in zip(*context, strict=True))]
        parts += [_projected(layer, hidden[:, now : now + 1]) for now in steps]
        keys, values = (torch.cat(part, dim=2) for part in zip(*parts, strict=True))
        key, value = _stored(layer, keys, values)
        outs = [
            _attended(
                layer,
                hidden[:, now : now + 1],
                key[:, :, : now + 1],
                value[:, :, : now + 1],
                now,
            )
            for now in steps
        ]
        return torch.cat(outs, dim=1).double().cpu()


def _projected(layer: AttentionLayer, hidden: Tensor) -> tuple[Tensor, Tensor]:
    head_dim = layer.configuration.workload.head_dim
    return _heads(layer.k_proj(hidden), head_dim), _heads(layer.v_proj(hidden), head_dim)


def _attended(
    layer: AttentionLayer, hidden: Tensor, key: Tensor, value: Tensor, first_row: int
) -> Tensor:
    workload = layer.configuration.workload
    query = _heads(layer.q_proj(hidden), workload.head_dim).double()
    attended = torch.stack(
        [
            reference_attention(query[i], key[i].double(), value[i].double(), first_row, workload)
            for i in range(workload.batch)
        ]
    )
    out: Tensor = layer.o_proj(attended.transpose(1, 2).flatten(2).to(layer.precision.dtype))
    return out


def _heads(projected: Tensor, head_dim: int) -> Tensor:
    return projected.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def _stored(layer: AttentionLayer, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values as a cache gives them back."""
    workload, name = layer.configuration.workload, layer.configuration.variant.kv_dtype
    assert name is not None
    codec = KV_DTYPES[name].codec(
        workload.batch, workload.kv_heads, workload.head_dim, layer.precision.dtype, layer.device
    )
    for i in range(workload.batch):
        context = slice(0, workload.seq_len)
        codec.calibrate(i, key[i : i + 1, :, context], value[i : i + 1, :, context])
    whole = codec.decode(codec.encode(key, value))
    scales = codec.scales[:2] if codec.scales else (None, None)
    return tuple(  # type: ignore[return-value]
        part.double() * (1.0 if scale is None else scale[:, :, None, None].double())
        for part, scale in zip(whole, scales, strict=True)
    )
