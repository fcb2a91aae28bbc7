"""Turns times taken in turns into verdicts: faster, slower, same or unclear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from objectives.schema.comparison import MIN_ROUNDS
from objectives.schema.evaluation import Positive

# Equivalence: two times this close to each other are the same to anyone who has to choose. The GPU
# time of one configuration differs by about as much when it is built again at another place in
# memory (`python -m benchmarks.same_twice`), so nothing smaller is called different.
MARGIN = 0.02
RESAMPLES = 1000
FEWEST_OF_BOOTSTRAP = 8  # of fewer it is too sure of itself

Word = Literal["faster", "slower", "same", "unclear"]
Ratios = NDArray[np.float64]


class Verdict(BaseModel):
    """How one configuration's time compares with another's, by rounds timed in turns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    word: Word
    ratio: Positive  # of the times; below 1 is faster
    low: Positive  # 95 % interval of the ratio; the range of the rounds where they are few
    high: Positive

    @property
    def may_be_equal(self) -> bool:
        """Tell whether the interval reaches what is the same."""
        return self.low < 1 + MARGIN and self.high > 1 / (1 + MARGIN)


def judge_rounds(ours: Sequence[float], theirs: Sequence[float]) -> Verdict:
    """Return the verdict on `ours` against `theirs`, round by round."""
    return _verdict(_log_ratios(ours, theirs), None)


def judge_across(
    ours: Sequence[float],
    base_of_ours: Sequence[float],
    theirs: Sequence[float],
    base_of_theirs: Sequence[float],
) -> Verdict:
    """Return the verdict on two that were never timed together, through what was timed with both.

    It has the noise of both ratios.
    """
    return _verdict(_log_ratios(ours, base_of_ours), _log_ratios(theirs, base_of_theirs))


def word_of(ratio: float, low: float, high: float) -> Word:
    """Return what an estimate and its 95 % interval say about two times.

    The same where the whole interval lies within the margin of equivalence. Faster or slower
    where the interval leaves out equality and the estimate is beyond the margin. Unclear
    otherwise: more rounds would decide. After Schuirmann, two one-sided tests, Journal of
    Pharmacokinetics and Biopharmaceutics 15, 1987.
    """
    if low > 1 / (1 + MARGIN) and high < 1 + MARGIN:
        return "same"
    if low > 1 and ratio > 1 + MARGIN:
        return "slower"
    if high < 1 and ratio < 1 / (1 + MARGIN):
        return "faster"
    return "unclear"


def _log_ratios(ours: Sequence[float], theirs: Sequence[float]) -> Ratios:
    if len(ours) != len(theirs):
        raise ValueError(f"rounds must be paired, got {len(ours)} and {len(theirs)}")
    ratios: Ratios = np.log(np.asarray(ours) / np.asarray(theirs))
    return ratios


def _verdict(logs: Ratios, minus: Ratios | None) -> Verdict:
    """Return the verdict on the median of `logs`, less that of `minus`, by bootstrap.

    The median, because in some rounds something else runs: means, trimmed ones too, of resamples
    that drew such rounds more often make intervals useless.
    """
    rng = np.random.default_rng(0)
    centre = float(np.median(logs)) - (0.0 if minus is None else float(np.median(minus)))
    fewest = min(len(logs), len(logs) if minus is None else len(minus))
    if fewest < FEWEST_OF_BOOTSTRAP:
        least, most = (0.0, 0.0) if minus is None else (minus.min(), minus.max())
        low, high = logs.min() - most, logs.max() - least
    else:
        medians = _resampled(logs, rng) - (0.0 if minus is None else _resampled(minus, rng))
        low, high = np.quantile(medians, [0.025, 0.975])
    ratio, low, high = (float(np.exp(value)) for value in (centre, low, high))
    word: Word = word_of(ratio, low, high) if fewest >= MIN_ROUNDS else "unclear"
    return Verdict(word=word, ratio=ratio, low=low, high=high)


def _resampled(values: Ratios, rng: np.random.Generator) -> Ratios:
    """Return the medians of resamples."""
    drawn = rng.integers(0, len(values), size=(RESAMPLES, len(values)))
    medians: Ratios = np.median(values[drawn], axis=1)
    return medians
