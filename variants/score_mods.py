"""What a model does to its attention scores: one definition each, from which all forms follow.

A definition is a pair of element-wise functions over broadcasting tensors:

    score(score, head, q_idx, kv_idx)   the changed score; the score comes scaled by 1/√head_dim
    visible(q_idx, kv_idx)              whether the query may see the key (causality included)

FlexAttention takes them as they are. Where `score` only adds, adding it to zero gives the
dense bias of the SDPA backends; the written-out attention applies it to its score matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from variants.registry import Registry

ROW_ALIGNMENT = 16  # elements of a dense bias

if TYPE_CHECKING:
    import torch

    ScoreFunction = Callable[
        [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor
    ]
    VisibleFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class BoundScoreMod:
    """A score_mod with its parameter, head count and device filled in."""

    score: ScoreFunction | None  # None leaves scores as they are
    visible: VisibleFunction
    additive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreMod:
    """One entry of the score_mod registry."""

    name: str
    summary: str
    source: str  # where the definition comes from
    additive: bool  # `score` only adds a term that does not depend on the score
    bind: Callable[[int, int, torch.device], BoundScoreMod]  # (parameter, q_heads, device)
    parameter: str | None = None  # what the number behind the colon means, with its unit
    default: int = 0

    def canonical(self, parameter: int | None = None) -> str:
        """Return the name with its parameter, `sliding_window:256`."""
        if self.parameter is None:
            return self.name
        return f"{self.name}:{self.default if parameter is None else parameter}"


def causal(q_idx: Any, kv_idx: Any) -> Any:
    """Tell whether a query sees a key: its own and all before it."""
    return q_idx >= kv_idx


def _bind_none(parameter: int, q_heads: int, device: torch.device) -> BoundScoreMod:
    return BoundScoreMod(None, causal, additive=True)


def alibi_slopes(q_heads: int) -> list[float]:
    """Return the slope of each head as the ALiBi paper sets them, also off powers of two."""
    power = 1 << (q_heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * (head + 1) / power) for head in range(power)]
    between = [2.0 ** (-8 * (head + 0.5) / power) for head in range(power)]
    return slopes + between[: q_heads - power]


def _bind_alibi(parameter: int, q_heads: int, device: torch.device) -> BoundScoreMod:
    import torch

    slopes = torch.tensor(alibi_slopes(q_heads), device=device)

    def alibi(score: Any, head: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score - slopes[head] * (q_idx - kv_idx)

    return BoundScoreMod(alibi, causal, additive=True)


def _bind_relative(parameter: int, q_heads: int, device: torch.device) -> BoundScoreMod:
    def relative(score: Any, head: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score + (q_idx - kv_idx)

    return BoundScoreMod(relative, causal, additive=True)


def _bind_softcap(parameter: int, q_heads: int, device: torch.device) -> BoundScoreMod:
    import torch

    # A tensor: a captured number would become a symbol in a graph of growing shapes, which
    # FlexAttention's score_mod cannot hold, and a graph of its own for every value elsewhere.
    cap = torch.tensor(float(parameter), device=device)

    def softcap(score: Any, head: Any, q_idx: Any, kv_idx: Any) -> Any:
        return cap * torch.tanh(score / cap)

    return BoundScoreMod(softcap, causal, additive=False)


def _bind_sliding_window(parameter: int, q_heads: int, device: torch.device) -> BoundScoreMod:
    import torch

    window = torch.tensor(parameter, dtype=torch.int32, device=device)

    def visible(q_idx: Any, kv_idx: Any) -> Any:
        return (q_idx >= kv_idx) & (q_idx - kv_idx < window)

    return BoundScoreMod(None, visible, additive=True)


SCORE_MODS = Registry(
    "score_mod",
    [
        ScoreMod(
            name="none",
            summary="plain causal attention",
            source="arXiv:1706.03762",
            additive=True,
            bind=_bind_none,
        ),
        ScoreMod(
            name="alibi",
            summary="a penalty that grows linearly with distance, one slope a head",
            source="arXiv:2108.12409",
            additive=True,
            bind=_bind_alibi,
        ),
        ScoreMod(
            name="relative",
            summary="adds the distance between query and key to the score",
            source="PyTorch FlexAttention announcement, 2024",
            additive=True,
            bind=_bind_relative,
        ),
        ScoreMod(
            name="softcap",
            summary="cap · tanh(score / cap)",
            source="arXiv:2408.00118",
            additive=False,
            bind=_bind_softcap,
            parameter="cap",
            default=50,
        ),
        ScoreMod(
            name="sliding_window",
            summary="sees the last W keys, the query's own included",
            source="arXiv:2310.06825",
            additive=True,
            bind=_bind_sliding_window,
            parameter="window in keys",
            default=256,
        ),
    ],
)


def parse_score_mod(text: str) -> tuple[ScoreMod, int]:
    """Split `name` or `name:parameter` into the registry's entry and the parameter.

    Raises:
        UnknownChoiceError: The name is not in the registry.
        ValueError: The parameter is not a positive integer, or the score_mod takes none.
    """
    name, colon, number = text.partition(":")
    entry = SCORE_MODS[name]
    if not colon:
        return entry, entry.default
    if entry.parameter is None:
        raise ValueError(f"score_mod {name} takes no parameter, got {text}")
    if not (number.isascii() and number.isdigit() and 0 < int(number) < 2**31):
        raise ValueError(f"{entry.parameter} of {name} must be a positive integer, got {number!r}")
    return entry, int(number)


def dense_bias(
    mod: BoundScoreMod,
    *,
    heads: int,
    rows: range,
    kv_len: int,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """Return what to add to scores, `(1, heads or 1, len(rows), kv_len)`; hidden pairs get -inf.

    Only for additive score_mods (others: the mask alone). Filled in slices of rows, so that
    index arithmetic in int64 and float32 never needs a multiple of the result.
    """
    import torch

    score = mod.score if mod.additive else None
    bias_heads = 1 if score is None else heads
    # Every row starts at a multiple of 16 elements: fused kernels read rows in vectors, and
    # PyTorch checks the length of a sliced bias, not where it begins (misaligned address).
    padded = -(-kv_len // ROW_ALIGNMENT) * ROW_ALIGNMENT
    bias = torch.empty(1, bias_heads, len(rows), padded, dtype=dtype, device=device)[..., :kv_len]
    kv_idx = torch.arange(kv_len, device=device)
    head = torch.arange(bias_heads, device=device)[:, None, None]
    zero = torch.zeros((), device=device)
    rows_at_once = max(1, 2**24 // (bias_heads * kv_len))
    for start in range(0, len(rows), rows_at_once):
        part = rows[start : start + rows_at_once]
        q_idx = torch.arange(part.start, part.stop, device=device)[:, None]
        values = zero if score is None else score(zero, head, q_idx, kv_idx)
        hidden = ~mod.visible(q_idx, kv_idx)
        bias[0, :, start : start + len(part)] = values.expand(
            bias_heads, len(part), kv_len
        ).masked_fill(hidden, float("-inf"))
    return bias
