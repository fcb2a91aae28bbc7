"""The oracle: the same function of the same unrounded inputs, plainly and in high precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from variants.layer.inputs import random_gradient, random_hidden, random_weights, weight_shapes
from variants.precisions import PRECISIONS
from variants.score_mods import BoundScoreMod
from variants.workload import Workload

SCORES_AT_ONCE = 2**26  # elements of the score matrix that exist at a time


def reference_results(workload: Workload, device: torch.device, seed: int) -> Mapping[str, Tensor]:
    """Return the layer's output as `out`, `(batch, rows, hidden_size)`, on the host.

    Rows are the prompt's tokens in prefill and train and the new tokens in decode. In train,
    the gradients are there too, by the names `hidden` and those of the projections, for the
    gradient of `random_gradient` at the output.

    Float32 without TF32 on CUDA, float64 on CPU. Deliberately independent of backends and
    caches: one sequence at a time, keys and values of all tokens, softmax(QKᵀ/√d)V over slices of
    rows; backward, the slices are computed again.
    """
    dtype = torch.float64 if device.type == "cpu" else torch.float32
    weights = random_weights(workload, device, seed)
    projections = {name: getattr(weights, name).to(dtype) for name in weight_shapes(workload)}
    with PRECISIONS["fp32"].applied():
        sequences = [
            _sequence(workload, projections, sequence, device, seed)
            for sequence in range(workload.batch)
        ]
        results = {"out": torch.stack([one.out for one in sequences])}
        if workload.trains:
            results["hidden"] = torch.stack([one.gradients["hidden"] for one in sequences])
            for name in projections:
                results[f"{name}_proj"] = sum(
                    (one.gradients[name] for one in sequences), start=torch.zeros((), dtype=dtype)
                )
    return results


class _Sequence(NamedTuple):
    out: Tensor  # (rows, hidden_size), on the host as the gradients are
    gradients: Mapping[str, Tensor]


def _sequence(
    workload: Workload,
    projections: Mapping[str, Tensor],
    sequence: int,
    device: torch.device,
    seed: int,
) -> _Sequence:
    dtype = projections["q"].dtype
    first_row = workload.seq_len if workload.decodes else 0
    with torch.no_grad():
        hidden = random_hidden(workload, sequence, device, seed).to(dtype)
        query = _heads(hidden[first_row:] @ projections["q"].T, workload.head_dim)
        key = _heads(hidden @ projections["k"].T, workload.head_dim)
        value = _heads(hidden @ projections["v"].T, workload.head_dim)
        attended = reference_attention(query, key, value, first_row, workload)
        merged = attended.transpose(0, 1).flatten(1)
        out = (merged @ projections["o"].T).cpu()
        if not workload.trains:
            return _Sequence(out, {})
        given = random_gradient(workload, sequence, device, seed).to(dtype)
        inner = _heads(given @ projections["o"], workload.head_dim)
        gradients = dict(
            zip("qkv", _attention_gradients(query, key, value, inner, workload), strict=True)
        )
        merged_gradients = {n: g.transpose(0, 1).flatten(1) for n, g in gradients.items()}
        found = {name: grad.T @ hidden for name, grad in merged_gradients.items()}
        found["o"] = given.T @ merged
        found["hidden"] = sum(
            (grad @ projections[name] for name, grad in merged_gradients.items()),
            start=torch.zeros((), dtype=dtype, device=device),
        )
    return _Sequence(out, {name: gradient.cpu() for name, gradient in found.items()})


def _heads(projected: Tensor, head_dim: int) -> Tensor:
    return projected.view(len(projected), -1, head_dim).transpose(0, 1)


def reference_attention(
    query: Tensor, key: Tensor, value: Tensor, first_row: int, workload: Workload
) -> Tensor:
    """Return `(q_heads, rows, head_dim)` for query of that shape and key and value by KV head."""
    mod = workload.scores.bind(workload.q_heads, query.device)
    group = workload.q_heads // workload.kv_heads
    out = torch.empty_like(query)
    for head, part in _slices(query, key):
        rows = _Rows(query[head, part], key[head // group], value[head // group])
        out[head, part] = _attend(mod, rows, head, first_row + part.start)
    return out


def _attention_gradients(
    query: Tensor, key: Tensor, value: Tensor, given: Tensor, workload: Workload
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value for the gradient `given` of the output."""
    mod = workload.scores.bind(workload.q_heads, query.device)
    group = workload.q_heads // workload.kv_heads
    gradients = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
    for head, part in _slices(query, key):
        with torch.enable_grad():
            rows = _Rows(
                *(
                    tensor.detach().requires_grad_()
                    for tensor in (query[head, part], key[head // group], value[head // group])
                )
            )
            out = _attend(mod, rows, head, part.start)
        of_query, of_key, of_value = torch.autograd.grad(out, rows, given[head, part])
        gradients[0][head, part] = of_query
        gradients[1][head // group] += of_key
        gradients[2][head // group] += of_value
    return gradients


class _Rows(NamedTuple):
    query: Tensor  # (rows, head_dim)
    key: Tensor  # (kv_len, head_dim)
    value: Tensor


def _slices(query: Tensor, key: Tensor) -> Iterator[tuple[int, slice]]:
    q_heads, rows, _ = query.shape
    rows_at_once = max(1, SCORES_AT_ONCE // key.shape[1])
    for head in range(q_heads):
        for start in range(0, rows, rows_at_once):
            yield head, slice(start, min(rows, start + rows_at_once))


def _attend(mod: BoundScoreMod, rows: _Rows, head: int, first_row: int) -> Tensor:
    device = rows.query.device
    q_idx = torch.arange(first_row, first_row + len(rows.query), device=device)[:, None]
    kv_idx = torch.arange(len(rows.key), device=device)
    scores = rows.query @ rows.key.T / rows.query.shape[1] ** 0.5
    if mod.score is not None:
        scores = mod.score(scores, torch.tensor(head, device=device), q_idx, kv_idx)
    scores = scores.masked_fill(~mod.visible(q_idx, kv_idx), float("-inf"))
    return torch.softmax(scores, dim=-1) @ rows.value
