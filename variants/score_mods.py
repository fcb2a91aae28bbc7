"""What a model does to its attention scores: one definition each, from which all forms follow.

A definition is a pair of element-wise functions over broadcasting tensors:

    score(score, head, q_idx, kv_idx)   the changed score; the score comes scaled by 1/√head_dim
    visible(q_idx, kv_idx)              whether the query may see the key (causality included)

FlexAttention takes them as they are. Where `score` only adds, adding it to zero gives the
dense bias of the SDPA backends; the written-out attention applies it to its score matrix.

Models combine them (Gemma 2 caps the scores of a sliding window): `softcap:50+sliding_window:4096`
changes scores in that order, and a query sees what every part lets it see.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

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
    # A parameter at which scores of variance 1 and a short prompt show it: softcap:50 leaves them.
    telling: int = 0
    relative: bool = False  # `score` looks at positions
    # (parameter, position) -> how many keys the query there sees; None: every key up to its own.
    visible_keys: Callable[[int, int], int] | None = None
    bounded: bool = False  # `parameter` is the largest distance at which a key is seen, plus one

    @property
    def told(self) -> str:
        """The name with its telling parameter, `softcap:2`."""
        return self.canonical(self.telling)

    def canonical(self, parameter: int | None = None) -> str:
        """Return the name with its parameter, `sliding_window:256`."""
        if self.parameter is None:
            return self.name
        return f"{self.name}:{self.default if parameter is None else parameter}"


class ScoreModTerm(NamedTuple):
    """A score_mod and the number behind its colon."""

    entry: ScoreMod
    parameter: int


@dataclass(frozen=True, slots=True)
class ScoreModChain:
    """What a workload does to its scores: one score_mod, or several in order."""

    parts: tuple[ScoreModTerm, ...]

    @property
    def canonical(self) -> str:
        """The chain as text, parameters included."""
        return "+".join(entry.canonical(parameter) for entry, parameter in self.parts) or "none"

    @property
    def plain(self) -> bool:
        """Whether this is causal attention and nothing else."""
        return all(entry.name == "none" for entry, _ in self.parts)

    @property
    def additive(self) -> bool:
        """Whether a dense bias can say it all."""
        return all(entry.additive for entry, _ in self.parts)

    @property
    def masks(self) -> bool:
        """Whether a query sees other keys than all up to its own."""
        return any(entry.visible_keys is not None for entry, _ in self.parts)

    @property
    def relative(self) -> bool:
        """Whether scores depend on positions."""
        return any(entry.relative for entry, _ in self.parts)

    @property
    def window(self) -> int | None:
        """How many of the last keys a query sees at most; None where there is no such bound."""
        windows = [parameter for entry, parameter in self.parts if entry.bounded]
        return min(windows, default=None)

    def without_window(self) -> ScoreModChain:
        """Return the chain for keys that a cache has cut to the window already."""
        return ScoreModChain(tuple(part for part in self.parts if not part.entry.bounded))

    def without(self, names: Collection[str]) -> ScoreModChain:
        """Return the chain that is left where something else computes the parts of `names`."""
        return ScoreModChain(tuple(part for part in self.parts if part.entry.name not in names))

    def parameter(self, name: str) -> int | None:
        """Return the number of the part of that name; None where there is no such part."""
        return next((number for entry, number in self.parts if entry.name == name), None)

    @property
    def prefix(self) -> int:
        """Tokens at the start that see each other in both directions."""
        return max((p for entry, p in self.parts if entry.name == "prefix_lm"), default=0)

    def bind(self, q_heads: int, device: torch.device) -> BoundScoreMod:
        """Fill in head count and device."""
        bound = [entry.bind(parameter, q_heads, device) for entry, parameter in self.parts]
        scores = [mod.score for mod in bound if mod.score is not None]
        masks = [
            mod.visible
            for mod, part in zip(bound, self.parts, strict=True)
            if part.entry.visible_keys is not None
        ]
        return BoundScoreMod(_in_turn(scores), _all_of(masks), self.additive)

    def visible_keys(self, position: int, kv_len: int) -> int:
        """Return how many of `kv_len` keys the query at `position` sees."""
        seen = [
            entry.visible_keys(parameter, position)
            for entry, parameter in self.parts
            if entry.visible_keys is not None
        ]
        return min(kv_len, *seen) if seen else min(kv_len, position + 1)


def _in_turn(scores: list[ScoreFunction]) -> ScoreFunction | None:
    if len(scores) < 2:
        return scores[0] if scores else None

    def in_turn(score: Any, head: Any, q_idx: Any, kv_idx: Any) -> Any:
        for change in scores:
            score = change(score, head, q_idx, kv_idx)
        return score

    return in_turn


def _all_of(masks: list[VisibleFunction]) -> VisibleFunction:
    if len(masks) < 2:
        return masks[0] if masks else causal

    def all_of(q_idx: Any, kv_idx: Any) -> Any:
        return functools.reduce(lambda a, b: a & b, [mask(q_idx, kv_idx) for mask in masks])

    return all_of


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


def _bind_prefix_lm(parameter: int, q_heads: int, device: torch.device) -> BoundScoreMod:
    import torch

    prefix = torch.tensor(parameter, dtype=torch.int32, device=device)

    def visible(q_idx: Any, kv_idx: Any) -> Any:
        return (kv_idx < prefix) | (q_idx >= kv_idx)

    return BoundScoreMod(None, visible, additive=True)


def document_of(position: Any, mean: Any) -> Any:
    """Return the index of the document that holds a token.

    Documents of a half, one and one and a half times `mean` tokens follow each other in turn.
    """
    within = position % (3 * mean)
    half = mean // 2
    past = (within >= half) * 1 + (within >= half + mean) * 1
    return (position // (3 * mean)) * 3 + past


def _bind_document(parameter: int, q_heads: int, device: torch.device) -> BoundScoreMod:
    import torch

    mean = torch.tensor(parameter, dtype=torch.int32, device=device)

    def visible(q_idx: Any, kv_idx: Any) -> Any:
        return (q_idx >= kv_idx) & (document_of(q_idx, mean) == document_of(kv_idx, mean))

    return BoundScoreMod(None, visible, additive=True)


def _keys_in_document(mean: int, position: int) -> int:
    within, half = position % (3 * mean), mean // 2
    start = half + mean if within >= half + mean else half if within >= half else 0
    return within - start + 1


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
            relative=True,
        ),
        ScoreMod(
            name="relative",
            summary="adds the distance between query and key to the score",
            source="PyTorch FlexAttention announcement, 2024",
            additive=True,
            bind=_bind_relative,
            relative=True,
        ),
        ScoreMod(
            name="softcap",
            summary="cap · tanh(score / cap)",
            source="arXiv:2408.00118",
            additive=False,
            bind=_bind_softcap,
            parameter="cap",
            default=50,
            telling=2,
        ),
        ScoreMod(
            name="sliding_window",
            summary="sees the last W keys, the query's own included",
            source="arXiv:2310.06825",
            additive=True,
            bind=_bind_sliding_window,
            parameter="window in keys",
            default=256,
            telling=30,
            visible_keys=lambda window, position: min(window, position + 1),
            bounded=True,
        ),
        ScoreMod(
            name="document",
            summary="packed sequences: sees its own document, of about N tokens",
            source="arXiv:2107.02027",
            additive=True,
            bind=_bind_document,
            parameter="mean document length in tokens",
            default=512,
            telling=20,
            visible_keys=_keys_in_document,
        ),
        ScoreMod(
            name="prefix_lm",
            summary="the first N tokens see each other, the rest is causal",
            source="arXiv:1910.10683",
            additive=True,
            bind=_bind_prefix_lm,
            parameter="prefix in tokens",
            default=128,
            telling=25,
            visible_keys=lambda prefix, position: max(prefix, position + 1),
        ),
    ],
)


@functools.lru_cache(maxsize=1024)
def parse_score_mod(text: str) -> ScoreModChain:
    """Read `name`, `name:parameter` or several of them joined by `+`.

    Raises:
        UnknownChoiceError: A name is not in the registry.
        ValueError: A parameter is not a positive integer, the score_mod takes none, or the parts
            do not go together.
    """
    parts = tuple(_parse_part(part) for part in text.split("+"))
    if len(parts) > 1:
        names = [entry.name for entry, _ in parts]
        if "none" in names or len(set(names)) < len(names):
            raise ValueError(
                f"a score_mod of several parts needs each once and no none, got {text}"
            )
        masking = [entry.name for entry, _ in parts if entry.visible_keys is not None]
        if "prefix_lm" in masking and len(masking) > 1:
            raise ValueError(f"prefix_lm sees ahead, which {text} would hide again")
    return ScoreModChain(parts)


def _parse_part(text: str) -> ScoreModTerm:
    name, colon, number = text.partition(":")
    entry = SCORE_MODS[name]
    if not colon:
        return ScoreModTerm(entry, entry.default)
    if entry.parameter is None:
        raise ValueError(f"score_mod {name} takes no parameter, got {text}")
    if not (number.isascii() and number.isdigit() and 0 < int(number) < 2**31):
        raise ValueError(f"{entry.parameter} of {name} must be a positive integer, got {number!r}")
    return ScoreModTerm(entry, int(number))


def dense_bias(
    mod: BoundScoreMod,
    *,
    heads: int,
    rows: range,
    kv_len: int,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """Return what to add to scores; hidden pairs get -inf.

    Shape `(1, heads or 1, len(rows), padded)`: columns from `kv_len` on are nobody's.

    Only for additive score_mods (others: the mask alone). Filled in slices of rows, so that
    index arithmetic in int64 and float32 never needs a multiple of the result.
    """
    import torch

    score = mod.score if mod.additive else None
    bias_heads = 1 if score is None else heads
    bias = torch.empty(1, bias_heads, len(rows), _padded(kv_len), dtype=dtype, device=device)
    kv_idx = torch.arange(kv_len, device=device)
    head = torch.arange(bias_heads, device=device)[:, None, None]
    zero = torch.zeros((), device=device)
    rows_at_once = max(1, 2**24 // (bias_heads * kv_len))
    for start in range(0, len(rows), rows_at_once):
        part = rows[start : start + rows_at_once]
        q_idx = torch.arange(part.start, part.stop, device=device)[:, None]
        values = zero if score is None else score(zero, head, q_idx, kv_idx)
        hidden = ~mod.visible(q_idx, kv_idx)
        bias[0, :, start : start + len(part), :kv_len] = values.expand(
            bias_heads, len(part), kv_len
        ).masked_fill(hidden, float("-inf"))
    return bias


def visible_bias(
    mod: BoundScoreMod,
    *,
    heads: int,
    rows: torch.Tensor,
    visible: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return what to add to scores where a caller says what each row sees.

    `visible` is `(batch or 1, 1, q_len, kv_len)`, its rows at the positions `rows`, `(q_len, 1)`;
    the bias has its shape, with `heads` heads where the score_mod needs them. Hidden pairs get
    half of the type's lowest number: a row of padding that sees nothing then has a mean instead
    of NaN, which would pass into every row through the next layer's values.
    """
    import torch

    score = mod.score if mod.additive else None
    batch, _, q_len, kv_len = visible.shape
    shape = (batch, 1 if score is None else heads, q_len, _padded(kv_len))
    device = visible.device
    values = torch.zeros((), device=device)
    if score is not None:
        head = torch.arange(heads, device=device)[:, None, None]
        values = score(values, head, rows, torch.arange(kv_len, device=device))
    bias = torch.empty(shape, dtype=dtype, device=device)[..., :kv_len]
    bias.copy_(values)
    return bias.masked_fill_(~visible, torch.finfo(dtype).min / 2)


def _padded(kv_len: int) -> int:
    """Return the columns of a bias, so that every row starts at a multiple of 16 elements.

    Fused kernels read rows in vectors, and PyTorch checks the length of a sliced bias, not where
    it begins (misaligned address).
    """
    return -(-kv_len // ROW_ALIGNMENT) * ROW_ALIGNMENT
