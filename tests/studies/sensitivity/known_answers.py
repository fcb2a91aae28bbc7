"""Functions whose effects can be computed by hand, and what is found of them from few trials."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from studies.numerics.gp import Axes
from studies.sensitivity.effects import Known, Share, shares, widening_of
from studies.sensitivity.population import Population
from studies.sensitivity.posterior import Field, Grid, Posterior
from studies.sensitivity.quality import Quality, surrogate_quality

Codes = NDArray[np.int64]


def full(*levels: int) -> Codes:
    """Every combination of choices."""
    return np.array(list(itertools.product(*[range(1, count + 1) for count in levels])))


def conditional() -> Codes:
    """The third axis means nothing beside the second's first choice; one pair is impossible."""
    codes = full(4, 3, 3, 3, 3, 2)
    codes = codes[~((codes[:, 0] == 1) & (codes[:, 3] == 2))]
    codes[codes[:, 1] == 1, 2] = 0
    return np.unique(codes, axis=0)


def additive(codes: Codes) -> NDArray[np.float64]:
    second = np.array([0.0, 1.0, 0.0, 2.0])[codes[:, 1] - 1]
    return 0.5 * (codes[:, 0] - 1) + 0.2 * second + 0.1 * (codes[:, 2] == 2)


def interaction_only(codes: Codes) -> NDArray[np.float64]:
    return 0.5 * np.where(codes[:, 0] % 2, 1, -1) * np.where(codes[:, 1] % 2, 1, -1)


def with_irrelevant_axes(codes: Codes) -> NDArray[np.float64]:
    return 0.4 * (codes[:, 0] - 1) + 0.3 * ((codes[:, 0] == 2) & (codes[:, 1] == 1))


def of_conditional(codes: Codes) -> NDArray[np.float64]:
    third = 0.25 * (codes[:, 2] == 3)
    return 0.3 * (codes[:, 0] - 1) + 0.4 * (codes[:, 1] == 1) + third + 0.2 * (codes[:, 3] == 2)


CASES: dict[str, tuple[Codes, Callable[[Codes], NDArray[np.float64]]]] = {
    "additive": (full(4, 4, 3, 3, 2, 2), additive),
    "interaction only": (full(4, 4, 3, 3, 2, 2), interaction_only),
    "irrelevant axes": (full(4, 4, 3, 3, 2, 2), with_irrelevant_axes),
    "conditional": (conditional(), of_conditional),
}


@dataclass(frozen=True)
class Found:
    """What a search of a known function leads to, beside the truth."""

    quality: Quality
    shares: tuple[Share, ...]
    truth: dict[str, Share]

    def covered(self) -> list[bool]:
        """Whether each interval holds the truth, up to rounding; axis by axis."""
        return [
            interval.low - 1e-9 <= truth.value <= interval.high + 1e-9
            for share in sorted(self.shares, key=lambda share: share.axis)
            for interval, truth in (
                (share.alone, self.truth[share.axis].alone),
                (share.total, self.truth[share.axis].total),
            )
        ]


def exactly(values: NDArray[np.float64]) -> Known:
    return Known(values, np.zeros((len(values), 1)), np.ones(1))


def search(case: str, seed: int, *, probes: int = 40, chosen: int = 80) -> Found:
    """Take probes at random, and of the rest about the lowest ones, as an optimizer would."""
    codes, function = CASES[case]
    truth = function(codes).astype(np.float64)
    rng = np.random.default_rng((seed, 7))
    order = rng.permutation(len(codes))
    rest = order[probes:]
    greedy = rest[np.argsort(truth[rest] + rng.normal(0, 0.1, len(rest)))][:chosen]
    known = np.r_[order[:probes], greedy]
    values = truth[known] + rng.normal(0, 0.02, len(known))
    points = codes.astype(np.float64)
    axes = Axes.of(points, [True] * codes.shape[1])
    grid = Grid(points, axes, np.zeros(codes.shape[1], dtype=bool))
    field = Field(points, axes, grid, None)
    quality = surrogate_quality(field, known, values, order[:probes], len(codes), rng)
    posterior = Posterior(field, known, values, field.fit_hyperparameters(known, values))
    widening = widening_of(quality.surprise, max(quality.probes, 1), 64, rng)
    found = Known(posterior.mean(), posterior.deviations(64, rng), widening)
    population = Population(codes)
    names = [f"x{axis}" for axis in population.axes]
    exact = shares(population, exactly(truth), names, population.axes)
    return Found(
        quality,
        shares(population, found, names, population.axes),
        {share.axis: share for share in exact},
    )
