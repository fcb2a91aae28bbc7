"""Milliseconds a token of transformers' `generate`."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SHORT = 2  # tokens of the shorter answer


@dataclass(frozen=True, slots=True)
class GeneratedTurn:
    """What generating took once."""

    ms: float  # a token
    tokens: Tensor  # (batch, SHORT + new tokens)
    peak_bytes: int | None  # that were allocated, all included; None on a CPU
    first_s: float  # the first answer, with all that is compiled, planned and captured


def generate(model: Any, ids: Tensor, tokens: int, given: Mapping[str, Any]) -> tuple[float, Any]:
    """Return the seconds of a greedy answer of so many tokens, and the answer."""
    _finish(ids)
    begin = time.perf_counter()
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        **given,
    )
    _finish(ids)
    return time.perf_counter() - begin, out[:, ids.shape[1] :]


def take_turn(
    model: Any, ids: Tensor, new: int, given: Callable[[], Mapping[str, Any]]
) -> GeneratedTurn:
    """Answer once to compile and capture, then a short and a long answer.

    Their difference is `new` tokens; the prompt is in both.

    Args:
        model: Never ends an answer by itself.
        ids: Prompts, `(batch, tokens)`.
        new: Tokens that are timed.
        given: Returns what `generate` is given beside, a fresh cache for each answer.
    """
    cuda = ids.device.type == "cuda"
    first_s, _ = generate(model, ids, SHORT + new, given())
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    short_s, _ = generate(model, ids, SHORT, given())
    long_s, tokens = generate(model, ids, SHORT + new, given())
    peak = torch.cuda.max_memory_allocated() if cuda else None
    ms = 1e3 * (long_s - short_s) / new
    return GeneratedTurn(ms=max(ms, 1e-6), tokens=tokens, peak_bytes=peak, first_s=first_s)


def _finish(ids: Tensor) -> None:
    if ids.device.type == "cuda":
        torch.cuda.synchronize()
