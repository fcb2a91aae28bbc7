"""Proposes what to measure next, from what was measured and a prior: points, not names.

Every workload has a front of its own, and the gain of a candidate is the hypervolume that it is
expected to add to its own workload's, as a share of what that workload is predicted to have.
After Emmerich, Deutz and Klinkenberg, Hypervolume-based expected improvement, CEC 2011, with
several fronts and one surrogate. All is a function of the seed and of what was told, in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, qmc

from studies.hypervolume import gains, hypervolume
from studies.surrogate import Axes, Matrix, Surrogate

REFIT_EVERY = 5  # trials; hyperparameters change slowly
MARGIN = 0.05  # log10 units behind the worst point: where hypervolumes are measured from
START_AFTER = 3  # measurements; before, the prior speaks alone
DOUBT = 0.3  # deviation of the prior, in log10 units
# Of a workload without a front, deviations that a prediction is believed to be better: greed
# would never try what the prior gets wrong.
OPTIMISM = 1.0
SAMPLES = 32
RIDGE = 1.0  # evidence, in squared log10 units, that outweighs the belief in a prior
MOST_CERTAIN = 0.98  # that a candidate fails
MOST_CANDIDATES = 20_000  # looked at for one proposal
MOST_POINTS = 600  # that the surrogate learns from


@dataclass(frozen=True, slots=True)
class Candidates:
    """Everything that can be proposed."""

    points: Matrix  # (n, axes): codes of named axes, log2 of numbers
    axes: Axes
    workloads: NDArray[np.int64]  # (n,)
    prior: Matrix | None  # (n, 2): expected log10 memory and log10 latency


@dataclass(frozen=True, slots=True)
class Told:
    """What is known about candidates that were tried, in the order of telling."""

    values: Mapping[int, tuple[float, float]]  # log10 memory and log10 latency, where measured
    failed: frozenset[int]  # no candidate of a front, measured or not
    running: frozenset[int] = frozenset()


class Proposer:
    """Chooses among candidates."""

    def __init__(self, candidates: Candidates, seed: int) -> None:
        """Remember the candidates; nothing is learnt yet."""
        self._candidates, self._seed = candidates, seed
        count = len(candidates.points)
        prior = candidates.prior
        self._prior = np.zeros((count, 2)) if prior is None else prior
        uniform = qmc.Sobol(2, seed=0).random(SAMPLES)
        self._normal = norm.ppf(np.clip(uniform, 1e-4, 1 - 1e-4))
        # By quantity: to how many trials its hyperparameters are fitted, and the surrogate.
        self._learnt: dict[str, tuple[int, Surrogate]] = {}

    def propose(self, told: Told) -> int | None:
        """Return the index of the next candidate; None when all were tried."""
        tried = {*told.values, *told.failed, *told.running}
        rng = np.random.default_rng((self._seed, len(tried)))
        open_ = np.ones(len(self._candidates.points), dtype=bool)
        open_[list(tried)] = False
        pool = self._pool(rng, np.flatnonzero(open_))
        if not len(pool):
            return None
        mean, deviation = self._predict(told, pool)
        gain = self._gain(told, pool, mean, deviation) * self._success(told, pool)
        return int(pool[np.argmax(gain + 1e-9 * rng.random(len(pool)))])

    def _pool(self, rng: np.random.Generator, untried: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(untried) <= MOST_CANDIDATES:
            return untried
        return np.sort(rng.choice(untried, MOST_CANDIDATES, replace=False))

    def _predict(self, told: Told, pool: NDArray[np.int64]) -> tuple[Matrix, Matrix]:
        """Return mean and deviation of log10 memory and log10 latency, `(n, 2)` each."""
        known = np.array(list(told.values), dtype=np.int64)[-MOST_POINTS:]
        prior = self._prior[pool]
        if len(known) < START_AFTER:
            return prior, np.full_like(prior, DOUBT)
        values = np.array([told.values[int(index)] for index in known])
        stop = _fitted_to(len(known))
        trust = _trust(self._prior[known[:stop]], values[:stop])
        residuals = values - trust * self._prior[known]
        learnt = [
            self._learn(quantity, known, residuals[:, column]).predict(
                self._candidates.points[pool]
            )
            for column, quantity in enumerate(("memory", "latency"))
        ]
        means = trust * prior + np.stack([mean for mean, _ in learnt], axis=1)
        return means, np.stack([deviation for _, deviation in learnt], axis=1)

    def _success(self, told: Told, pool: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the probability that a candidate does not fail, learnt like any other number."""
        if not told.failed:
            return np.ones(len(pool))
        tried = dict.fromkeys((*told.values, *sorted(told.failed)))
        known = np.array(list(tried), dtype=np.int64)[-MOST_POINTS:]
        lost = np.array([float(index in told.failed) for index in known])
        mean, _ = self._learn("failure", known, lost).predict(self._candidates.points[pool])
        success: Matrix = 1 - np.clip(mean, 0.0, MOST_CERTAIN)
        return success

    def _learn(
        self, quantity: str, known: NDArray[np.int64], values: NDArray[np.float64]
    ) -> Surrogate:
        """Return a surrogate of `values` at the candidates `known`.

        Its hyperparameters are those of a number of trials, fitted from the start: whoever
        resumes gets the same.
        """
        points = self._candidates.points[known]
        stop = _fitted_to(len(known))
        fitted, surrogate = self._learnt.get(quantity, (-1, None))
        if surrogate is None or fitted != stop:
            surrogate = Surrogate(self._candidates.axes)
            surrogate.fit(points[:stop], values[:stop], refit=True)
            self._learnt[quantity] = stop, surrogate
        surrogate.fit(points, values, refit=False)
        return surrogate

    def _gain(
        self, told: Told, pool: NDArray[np.int64], mean: Matrix, deviation: Matrix
    ) -> NDArray[np.float64]:
        of_pool = self._candidates.workloads[pool]
        fronts: dict[int, list[tuple[float, float]]] = {}
        for index, values in told.values.items():
            if index not in told.failed:
                fronts.setdefault(int(self._candidates.workloads[index]), []).append(values)
        gain = np.zeros(len(pool))
        for workload in np.unique(of_pool):
            mine = np.flatnonzero(of_pool == workload)
            front = np.array(fronts.get(int(workload), [])).reshape(-1, 2)
            everything = np.r_[mean[mine], front]
            reference = everything.max(axis=0) + MARGIN
            whole = max(hypervolume(everything, reference), 1e-3)
            optimism = 0.0 if len(front) else OPTIMISM
            drawn = mean[mine, None] + (self._normal - optimism) * deviation[mine, None]
            gain[mine] = gains(front, reference, drawn).mean(axis=1) / whole
        return gain


def _fitted_to(count: int) -> int:
    """Return how many of `count` trials decide what is fitted only now and then."""
    return count - count % REFIT_EVERY or count


def _trust(prior: Matrix, values: Matrix) -> Matrix:
    """Return how far to follow the prior in each objective, from 0 to 1.

    The slope of measurements over the prior, by ridge regression towards 1: a prior that is upside
    down or says nothing is soon left alone.
    """
    apart = prior - prior.mean(axis=0)
    missed = values - values.mean(axis=0) - apart
    slope = 1 + (apart * missed).sum(axis=0) / ((apart**2).sum(axis=0) + RIDGE)
    trust: Matrix = np.clip(slope, 0.0, 1.0)
    return trust
