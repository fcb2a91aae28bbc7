"""The oracle: the same function of the same unrounded inputs, plainly and in high precision."""

from __future__ import annotations

import torch
from torch import Tensor

from variants.inputs import random_hidden, random_weights
from variants.precisions import PRECISIONS
from variants.workload import Workload

SCORES_AT_ONCE = 2**26  # elements of the score matrix that exist at a time


@torch.inference_mode()
def reference_output(workload: Workload, device: torch.device, seed: int) -> Tensor:
    """Return the layer's output, `(batch, rows, hidden_size)`, on the host.

    Rows are the prompt's tokens in prefill and the new tokens in decode. Float32 without TF32 on
    CUDA, float64 on CPU. Deliberately independent of backends and caches: one sequence at a time,
    keys and values of all tokens, softmax(QKᵀ/√d)V over slices of rows.
    """
    dtype = torch.float64 if device.type == "cpu" else torch.float32
    weights = random_weights(workload, device, seed)
    q_proj, k_proj, v_proj, o_proj = (
        weight.to(dtype) for weight in (weights.q, weights.k, weights.v, weights.o)
    )
    first_row = workload.seq_len if workload.decodes else 0
    out = torch.empty(
        workload.batch, workload.capacity - first_row, workload.hidden_size, dtype=dtype
    )
    with PRECISIONS["fp32"].applied():
        for sequence in range(workload.batch):
            hidden = random_hidden(workload, sequence, device, seed).to(dtype)
            query = _heads(hidden[first_row:] @ q_proj.T, workload.head_dim)
            key = _heads(hidden @ k_proj.T, workload.head_dim)
            value = _heads(hidden @ v_proj.T, workload.head_dim)
            attended = _attention(query, key, value, first_row, workload)
            out[sequence] = attended.transpose(0, 1).reshape(len(attended[0]), -1) @ o_proj.T
    return out


def _heads(projected: Tensor, head_dim: int) -> Tensor:
    return projected.view(len(projected), -1, head_dim).transpose(0, 1)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, first_row: int, workload: Workload
) -> Tensor:
    """Return `(q_heads, rows, head_dim)` for query of that shape and key and value by KV head."""
    entry, parameter = workload.score_mod_entry
    mod = entry.bind(parameter, workload.q_heads, query.device)
    q_heads, rows, head_dim = query.shape
    kv_len = key.shape[1]
    group = workload.q_heads // workload.kv_heads
    kv_idx = torch.arange(kv_len, device=query.device)
    out = torch.empty_like(query)
    rows_at_once = max(1, SCORES_AT_ONCE // kv_len)
    for head in range(q_heads):
        for start in range(0, rows, rows_at_once):
            part = slice(start, min(rows, start + rows_at_once))
            q_idx = torch.arange(part.start, part.stop, device=query.device)[:, None] + first_row
            scores = query[head, part] @ key[head // group].T / head_dim**0.5
            if mod.score is not None:
                index = torch.tensor(head, device=query.device)
                scores = mod.score(scores, index, q_idx, kv_idx)
            scores = scores.masked_fill(~mod.visible(q_idx, kv_idx), float("-inf"))
            out[head, part] = torch.softmax(scores, dim=-1) @ value[head // group]
    return out
