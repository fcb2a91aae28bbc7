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

from studies.numerics.arrays import Matrix
from studies.numerics.interval import Interval
from studies.sensitivity.population import Population

TAILS = (0.025, 0.975)
# Shares below cannot be told from none: the process believes that no axis is quite without effect.
RESOLUTION = 0.001
LEAST_SHARE = 0.01  # of a variance: of what is below, no interaction is computed
DRAWS_OF_PAIRS = 32  # of an interaction's interval: there are many pairs, and few are shown

Measure = Callable[[Matrix], NDArray[np.float64]]  # of (configurations, draws), by draw


@dataclass(frozen=True, slots=True)
class Share:
    """The effect of one axis, alone and with others, as shares of a variance."""

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

    def by(self, draws: int) -> Known:
        """Return the same by so many draws, where there are more."""
        return Known(self.mean, self.deviations[:, :draws], self.widening[:draws])

    @property
    def draws(self) -> Matrix:
        """Draws of the quantity, widened, `(configurations, draws)`."""
        drawn: Matrix = self.mean[:, None] + self.widening * self.deviations
        return drawn

    def linear(self, weights: NDArray[np.float64]) -> Interval:
        """Return a weighted sum over configurations."""
        value = float(weights @ self.mean)
        low, high = np.quantile(value + self.widening * (weights @ self.deviations), TAILS)
        return Interval(value, min(value, float(low)), max(value, float(high)))

    def spread(self, measure: Measure) -> Spread:
        """Return a quantity's variance of some kind, of the mean and around it."""
        mean = self.mean[:, None]
        return Spread(
            measure(mean), measure(mean + self.deviations), measure(self.deviations), self.widening
        )


@dataclass(frozen=True, slots=True)
class Spread:
    """A variance, quadratic in the quantity: of the mean, of plain draws, of deviations alone."""

    mean: NDArray[np.float64]  # (1,)
    drawn: NDArray[np.float64]  # (draws,)
    deviations: NDArray[np.float64]  # (draws,)
    widening: NDArray[np.float64]  # (draws,)

    @property
    def towards(self) -> NDArray[np.float64]:
        """Of the mean, moved in the direction of each widened draw."""
        return self.mean + self.widening * (self.drawn - self.mean - self.deviations)

    @property
    def wide(self) -> NDArray[np.float64]:
        """Of each widened draw."""
        return self.towards + self.widening**2 * self.deviations

    def share_of(self, whole: Spread) -> Interval:
        """Return this variance as a share of another."""
        estimate = float(np.median(_ratio(self.drawn, whole.drawn)))
        towards = _ratio(self.towards, whole.towards)
        upper = np.maximum(_ratio(self.wide, whole.wide), towards)
        low = float(np.quantile(np.clip(towards, 0.0, 1.0), TAILS[0]))
        high = float(np.quantile(np.clip(upper, 0.0, 1.0), TAILS[1]))
        low = low if low >= RESOLUTION else 0.0
        return Interval(estimate, min(low, estimate), max(high, estimate))


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 1e-12)


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
    whole = known.spread(partial(population.variance_within, given))
    found = [
        Share(
            names[axis],
            known.spread(partial(population.alone, axis, given)).share_of(whole),
            known.spread(partial(population.total, axis)).share_of(whole),
        )
        for axis in axes
    ]
    return tuple(sorted(found, key=lambda share: -share.total.value))


def interactions(
    population: Population, known: Known, names: Sequence[str], of_axes: Sequence[Share]
) -> tuple[Interaction, ...]:
    """Return the strongest first, but those that must be small.

    Two axes cannot do more together than the lesser of their total effects, of `of_axes`.
    """
    known = known.by(DRAWS_OF_PAIRS)
    total = {share.axis: share.total.value for share in of_axes}
    worth = [axis for axis in population.axes if total[names[axis]] >= LEAST_SHARE]
    whole = known.spread(partial(population.variance_within, ()))
    found = [
        Interaction(
            (names[one], names[other]),
            known.spread(partial(population.interaction, one, other)).share_of(whole),
        )
        for one, other in itertools.combinations(worth, 2)
    ]
    return tuple(sorted(found, key=lambda pair: -pair.share.value))
