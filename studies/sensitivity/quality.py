"""How far a surrogate can be believed: by probe trials that it has not seen.

An optimizer tries what resembles what it tried before, so that its own trials are easy to predict,
also for a surrogate that knows nothing of the rest of the space. Only probe trials count here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from studies.numerics.arrays import evenly_spaced
from studies.numerics.interval import Interval
from studies.sensitivity.posterior import Field, Posterior

LEAST_PROBES = 16
# R² on held-out probes. Where it is reached, axes are ranked about as the whole space ranks them:
# `python -m benchmarks.effects_of_table` measures that on a recorded table.
FLOOR = 0.7
LEAST_OF_EACH = 5  # probes that failed, and that did not, for a probability to be learnt
FOLDS = 5
# Its matrices grow with the square of the trials, and their factors with the cube: this many take
# about as long as the effects of a space of some ten thousand configurations.
MOST_LEARNT = 1_200
RESAMPLES = 500


@dataclass(frozen=True, slots=True)
class Quality:
    """How well a surrogate of one quantity predicts probes that it has not seen."""

    trials: int  # with a value, that it learns from
    probes: int  # of them
    exact: bool  # every possible configuration has a value: nothing is predicted
    r_squared: Interval | None = None  # on held-out probes
    spearman: float | None = None  # the same
    prior_r_squared: float | None = None  # of the prior alone, up to an offset
    # Mean squared error of held-out probes over the variance that was expected, at least 1.
    surprise: float = 1.0
    left_out: int = 0  # trials with a value that it does not learn from: they are too many

    @property
    def refusal(self) -> str | None:
        """Why nothing is ranked; None where it is."""
        if self.exact:
            return None
        if self.probes < LEAST_PROBES:
            return f"{self.probes} of its {self.trials} trials are probes, below {LEAST_PROBES}"
        if self.r_squared is None:
            return f"fewer than {LEAST_OF_EACH} of {self.probes} probes differ from the rest"
        if self.r_squared.value < FLOOR:
            return f"R² on held-out probes is {self.r_squared.value:.2f}, below {FLOOR}"
        return None

    @property
    def more_probes(self) -> int:
        """How many more probes would help: up to the least number, or as many again."""
        if self.refusal is None:
            return 0
        return LEAST_PROBES - self.probes if self.probes < LEAST_PROBES else self.probes


def training_mask(
    known: NDArray[np.int64], probes: NDArray[np.int64], count: int
) -> NDArray[np.bool_]:
    """Return which of the points with values to learn from, all but of very many.

    Half are probes, the first ones, which are as honest a sample as all of them; the others are
    evenly spread over the trials. Where all `count` points have a value, nothing is learnt.

    Args:
        known: Points with values, in the order of trials.
        probes: Those of them that are an honest sample, in their order.
        count: How many points have a value in all.
    """
    if len(known) <= MOST_LEARNT or len(known) == count:
        return np.ones(len(known), dtype=bool)
    kept = np.isin(known, probes[: MOST_LEARNT // 2])
    others = np.flatnonzero(~kept & ~np.isin(known, probes))
    kept[others[evenly_spaced(len(others), MOST_LEARNT - int(kept.sum()))]] = True
    return kept


def surrogate_quality(
    field: Field,
    known: NDArray[np.int64],
    values: NDArray[np.float64],
    probes: NDArray[np.int64],
    count: int,
    rng: np.random.Generator,
) -> Quality:
    """Predict each probe from all trials but a fifth of the probes, that one among them.

    Args:
        field: What is predicted.
        known: Points with values, in the order of trials.
        values: Theirs.
        probes: Those of `known` that are an honest sample.
        count: How many points have a value in all.
        rng: Divides the probes.
    """
    if len(known) == count:
        return Quality(len(known), len(probes), exact=True)
    if len(probes) < LEAST_PROBES:
        return Quality(len(known), len(probes), exact=False)
    value_of = dict(zip(known.tolist(), values.tolist(), strict=True))
    actual = np.array([value_of[index] for index in probes.tolist()])
    if _of_the_rest(actual) < LEAST_OF_EACH:
        return Quality(len(known), len(probes), exact=False)
    held_out = rng.permutation(probes)
    truth, mean, variance = [], [], []
    for fold in range(FOLDS):
        held = held_out[fold::FOLDS]
        kept = ~np.isin(known, held)
        log = field.fit_hyperparameters(known[kept], values[kept])
        predicted, doubt = Posterior(field, known[kept], values[kept], log).at(held)
        truth += [value_of[index] for index in held.tolist()]
        mean += predicted.tolist()
        variance += doubt.tolist()
    actual, errors = np.array(truth), np.array(truth) - np.array(mean)
    return Quality(
        len(known),
        len(probes),
        exact=False,
        r_squared=_r_squared(actual, errors, rng),
        spearman=float(spearmanr(actual, mean)[0]) if np.ptp(mean) > 0 else 0.0,
        prior_r_squared=_prior_r_squared(field, _folded(held_out), actual),
        surprise=max(1.0, float((errors**2 / np.array(variance)).mean())),
    )


def _prior_r_squared(
    field: Field, probes: NDArray[np.int64], actual: NDArray[np.float64]
) -> float | None:
    if not np.ptp(field.given):
        return None
    return float(1 - (actual - field.given[probes]).var() / actual.var())


def _of_the_rest(values: NDArray[np.float64]) -> int:
    """Return how many values differ from the commonest one."""
    _, counts = np.unique(values, return_counts=True)
    return int(len(values) - counts.max())


def _folded(probes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return probes in the order in which folds hold them out."""
    return np.concatenate([probes[fold::FOLDS] for fold in range(FOLDS)])


def _r_squared(
    actual: NDArray[np.float64], errors: NDArray[np.float64], rng: np.random.Generator
) -> Interval:
    def share(rows: NDArray[np.int64]) -> float:
        spread = ((actual[rows] - actual[rows].mean()) ** 2).sum()
        return float(1 - (errors[rows] ** 2).sum() / spread) if spread > 0 else -np.inf

    drawn = [share(rng.integers(0, len(actual), len(actual))) for _ in range(RESAMPLES)]
    low, high = np.quantile([one for one in drawn if np.isfinite(one)], [0.025, 0.975])
    return Interval(share(np.arange(len(actual))), float(low), float(high))
