"""The effects of a quantity: from draws of what it may be everywhere to numbers with intervals.

The posterior's mean has no wiggles where nothing was tried, and a draw has all that are possible:
shares of variance are computed of the mean moved in the direction of each draw for the lower
bound, and of the draws themselves for the upper one. Draws are widened by as much as held-out
probes were further from their predictions than expected, and by how little a few probes say of
that: each by the root of a draw of the scaled inverse χ² distribution.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from studies.sensitivity.population import Population
from studies.sensitivity.quality import Interval
from studies.surrogate import Matrix

TAILS = (0.025, 0.975)
FEWER = 32  # draws that interactions are computed of

Measure = Callable[[Matrix], NDArray[np.float64]]  # of (configurations, draws), by draw


@dataclass(frozen=True, slots=True)
class Share:
    """What one axis does, as shares of a variance."""

    axis: str
    alone: Interval  # S: Var(E[Y | axis])
    total: Interval  # T: E[Var(Y | all other axes)]


@dataclass(frozen=True, slots=True)
class Interaction:
    """What two axes do together that no sum of two effects explains: a share of the variance."""

    axes: tuple[str, str]
    share: Interval


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a quantity at the configurations of a population."""

    mean: NDArray[np.float64]  # (configurations,)
    deviations: Matrix  # (configurations, draws): how far the truth may be from the mean
    widening: NDArray[np.float64]  # (draws,): factors of the deviations

    def of(self, rows: NDArray[np.int64]) -> Known:
        """Return what is known of some configurations."""
        return Known(self.mean[rows], self.deviations[rows], self.widening)

    @property
    def draws(self) -> Matrix:
        """What the quantity may be."""
        drawn: Matrix = self.mean[:, None] + self.widening * self.deviations
        return drawn

    def linear(self, weights: NDArray[np.float64]) -> Interval:
        """Return a weighted sum over configurations."""
        value = float(weights @ self.mean)
        low, high = np.quantile(value + self.widening * (weights @ self.deviations), TAILS)
        return Interval(value, min(value, float(low)), max(value, float(high)))

    def share(self, part: Measure, whole: Measure, draws: int | None = None) -> Interval:
        """Return the share of one variance in another; both are quadratic in the quantity."""
        some = slice(0, draws)
        mean, widening = self.mean[:, None], self.widening[some]
        deviations = self.deviations[:, some]
        plain, wide = mean + deviations, mean + widening * deviations

        def ratio(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.divide(one, other, out=np.zeros_like(one), where=other > 1e-12)

        estimate = float(np.median(ratio(part(plain), whole(plain))))
        wide_part, wide_whole = part(wide), whole(wide)
        towards = ratio(
            wide_part - widening**2 * part(deviations),
            wide_whole - widening**2 * whole(deviations),
        )
        low = float(np.quantile(np.clip(towards, 0.0, None), TAILS[0]))
        upper = np.clip(np.maximum(ratio(wide_part, wide_whole), towards), 0.0, 1.0)
        high = float(np.quantile(upper, TAILS[1]))
        return Interval(estimate, min(low, estimate), max(high, estimate))


def widening_of(
    surprise: float, probes: int, draws: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return by how much to widen each draw, after so many probes with such a surprise."""
    return np.sqrt(surprise * probes / rng.chisquare(probes, draws))


def shares(
    population: Population,
    known: Known,
    names: Sequence[str],
    axes: Sequence[int],
    given: Sequence[int] = (),
) -> tuple[Share, ...]:
    """Return the shares of `axes` in the variance within `given` axes, largest total first."""
    whole = partial(population.variance_within, given)
    found = [
        Share(
            names[axis],
            known.share(partial(population.alone, axis, given), whole),
            known.share(partial(population.total, axis), whole),
        )
        for axis in axes
    ]
    return tuple(sorted(found, key=lambda share: -share.total.value))


def interactions(
    population: Population, known: Known, names: Sequence[str]
) -> tuple[Interaction, ...]:
    """Return every two axes, the strongest first."""
    whole = partial(population.variance_within, ())
    found = [
        Interaction(
            (names[one], names[other]),
            known.share(partial(population.interaction, one, other), whole, FEWER),
        )
        for one, other in itertools.combinations(population.axes, 2)
    ]
    return tuple(sorted(found, key=lambda pair: -pair.share.value))
