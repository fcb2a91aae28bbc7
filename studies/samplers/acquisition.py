"""The acquisition function: expected hypervolume improvement times the probability of feasibility.

Candidates are points, not names. Every workload has a Pareto front of its own, and the expected
improvement of a candidate is that of its own workload's hypervolume, as a share of what that
workload is predicted to have: after Emmerich, Deutz and Klinkenberg, Hypervolume-based expected
improvement, CEC 2011, with several fronts and one Gaussian process an objective, by quasi Monte
Carlo. The probability of feasibility (that a trial does not fail) is a Gaussian process, too.
All is a function of the seed and of the observations, in order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, qmc

from studies.numerics.arrays import Matrix
from studies.numerics.gp import Axes, Surrogate, subsample
from studies.numerics.hypervolume import hypervolume, improvements
from studies.numerics.threads import one_thread
from studies.samplers.observations import Observations

# The refit schedule: hyperparameters and the shortlist change slowly, and are made anew only when
# the observations have grown by this share, or by this many.
REFIT_GROWTH, LEAST_REFIT_GROWTH = 0.1, 5
# After so many observations, more than hyperparameters are fitted to, more slowly still.
LATE, LATE_REFIT_GROWTH = 300, 0.25
MARGIN = 0.05  # log10 units behind the worst point: the reference point of hypervolumes
PRIOR_DEVIATION = 0.3  # standard deviation of the prior's predictions, in log10 units
# Of a workload without a front, standard deviations that a prediction is believed to be better:
# expected improvement alone would never try what the prior gets wrong.
OPTIMISM = 1.0
SAMPLES = 32  # quasi Monte Carlo samples of an expected improvement
RIDGE = 0.5  # evidence, in squared log10 units, that outweighs the belief in a prior
MOST_CERTAIN = 0.98  # probability of failing, at most
MOST_SCORED = 2_500  # untried candidates that are all scored for each proposal
MOST_CANDIDATES = 1_000  # scored where there are more: half from the shortlist, half at random
MOST_SHORTLISTED_FROM = 40_000  # candidates whose mean is predicted for a shortlist
MOST_CONDITIONED = 300  # observations that the Gaussian processes are conditioned on
MOST_RANKED = 64  # kept of a proposal's ranking


@dataclass(frozen=True, slots=True)
class Candidates:
    """The candidates for the next trial, and what the prior expects of them."""

    points: Matrix  # (n, axes): codes of named axes, log2 of numbers
    axes: Axes
    workloads: NDArray[np.int64]  # (n,)
    prior: Matrix | None  # (n, 2): expected log10 memory and log10 latency


@dataclass(frozen=True, slots=True)
class Proposal:
    """The candidate to measure next, and what that is expected to bring."""

    index: int  # of a candidate
    # The best acquisition value of each workload, on average over the workloads: what one more
    # trial is expected to add to a workload's hypervolume, as a share of it.
    expected_gain: float


class HypervolumeAcquisition:
    """Ranks candidates by expected hypervolume improvement times probability of feasibility."""

    def __init__(self, candidates: Candidates, seed: int) -> None:
        self._candidates, self._seed = candidates, seed
        workloads = int(candidates.workloads.max()) + 1
        self._order = np.random.default_rng(seed).permutation(workloads)
        count = len(candidates.points)
        prior = candidates.prior
        self._prior = np.zeros((count, 2)) if prior is None else prior
        uniform = qmc.Sobol(2, seed=0).random(SAMPLES)
        self._normal = norm.ppf(np.clip(uniform, 1e-4, 1 - 1e-4))
        # By quantity: to how many observations its hyperparameters are fitted, and the surrogate.
        self._surrogates: dict[str, tuple[int, Surrogate]] = {}
        self._listed: tuple[int, NDArray[np.int64]] | None = None  # after so many observations
        self.ranked: list[int] = []  # the best candidates of the last proposal, that one first

    def propose(self, observations: Observations) -> Proposal | None:
        """Return the best candidate; None when all were tried."""
        pool, values = self.rank(observations)
        if not len(pool):
            return None
        rng = np.random.default_rng((self._seed, len(observations.tried)))
        of_pool = self._candidates.workloads[pool]
        best_of_workload = np.zeros(len(self._order))
        np.maximum.at(best_of_workload, of_pool, values)
        score = values + 1e-9 * rng.random(len(pool))  # ties are broken at random
        unserved = np.setdiff1d(of_pool, self._candidates.workloads[observations.indexes])
        if len(unserved):
            # Every workload is served first, in an order that favours none: which of them gains
            # most by its first measurement, no prior knows.
            score[of_pool != unserved[np.argmin(self._order[unserved])]] = -1.0
        self.ranked = pool[np.argsort(-score)[:MOST_RANKED]].tolist()
        return Proposal(int(pool[np.argmax(score)]), float(best_of_workload.mean()))

    def rank(self, observations: Observations) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return untried candidates and the acquisition value of each, unsorted."""
        with one_thread():
            return self._rank(observations)

    def _rank(self, observations: Observations) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        pool = self._pool(observations)
        if not len(pool):
            return pool, np.zeros(0)
        # What is being measured counts at its predicted mean (the kriging believer): candidates
        # that resemble it gain little.
        running = np.array(sorted(observations.running), dtype=np.int64)
        mean, deviation = self._predict(observations, np.r_[pool, running], mean_only=len(running))
        improvement = self._expected_improvement(
            observations,
            pool,
            mean[: len(pool)],
            deviation[: len(pool)],
            running,
            mean[len(pool) :],
        )
        return pool, improvement * self._feasibility(observations, pool)

    def _pool(self, observations: Observations) -> NDArray[np.int64]:
        """Return the untried candidates, or, of very many, the shortlist and some at random."""
        open_ = np.ones(len(self._candidates.points), dtype=bool)
        open_[observations.indexes] = False
        untried = np.flatnonzero(open_)
        if len(untried) <= MOST_SCORED:
            return untried
        shortlist = self._shortlist(observations)
        rng = np.random.default_rng((self._seed, len(observations.tried), 1))
        others = rng.choice(untried, MOST_CANDIDATES // 2, replace=False)
        return np.union1d(shortlist[open_[shortlist]], others)

    def _shortlist(self, observations: Observations) -> NDArray[np.int64]:
        """Return the candidates of each workload with the largest improvement of their means.

        It is that of the last refit, whenever it is asked for.
        """
        refit = last_refit(len(observations.values))
        if self._listed is None or self._listed[0] != refit:
            before = Observations(
                dict(list(observations.values.items())[:refit]),
                observations.failed & frozenset(observations.values),
            )
            rng = np.random.default_rng((self._seed, refit, 2))
            count = len(self._candidates.points)
            scanned = np.sort(rng.choice(count, min(count, MOST_SHORTLISTED_FROM), replace=False))
            mean, deviation = self._predict(before, scanned, mean_only=len(scanned))
            none = np.empty(0, dtype=np.int64), np.empty((0, 2))
            improvement = self._expected_improvement(before, scanned, mean, deviation, *none)
            self._listed = refit, self._best_of_each(scanned, improvement)
        return self._listed[1]

    def _best_of_each(
        self, scanned: NDArray[np.int64], improvement: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Return the best candidates of each workload, equally many of each."""
        workloads = self._candidates.workloads[scanned]
        order = np.lexsort((-improvement, workloads))
        starts = np.searchsorted(workloads[order], workloads[order])
        place = np.arange(len(order)) - starts  # within its workload
        each = max(1, MOST_CANDIDATES // 2 // len(np.unique(workloads)))
        return np.sort(scanned[order[place < each]])

    def _predict(
        self, observations: Observations, pool: NDArray[np.int64], *, mean_only: int = 0
    ) -> tuple[Matrix, Matrix]:
        """Return mean and standard deviation of log10 memory and log10 latency, `(n, 2)` each.

        `mean_only`: of how many of the last ones the deviation is 0 and only the mean is
        predicted, which costs far less.
        """
        known, values = observations.known, observations.numbers
        prior = self._prior[pool]
        if not len(known):
            return prior, np.full_like(prior, PRIOR_DEVIATION)
        trust = _trust(self._prior[known], values)
        residuals = values - trust * self._prior[known]
        means, deviations = trust * prior, np.zeros_like(prior)
        for column, quantity in enumerate(("memory", "latency")):
            surrogate = self._surrogate(quantity, known, residuals[:, column])
            points, uncertain = self._candidates.points[pool], len(pool) - mean_only
            if uncertain:
                mean, deviations[:uncertain, column] = surrogate.predict(points[:uncertain])
                means[:uncertain, column] += mean
            if mean_only:
                means[uncertain:, column] += surrogate.predict_mean(points[uncertain:])
        return means, deviations

    def _feasibility(
        self, observations: Observations, pool: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the probability of feasibility: that a candidate does not fail.

        The mean of a Gaussian process through 0 for what was measured and 1 for what failed.
        """
        if not observations.failed:
            return np.ones(len(pool))
        tried = dict.fromkeys((*observations.values, *sorted(observations.failed)))
        known = np.array(list(tried), dtype=np.int64)
        failed = np.isin(known, list(observations.failed)).astype(np.float64)
        surrogate = self._surrogate("failure", known, failed)
        mean = surrogate.predict_mean(self._candidates.points[pool])
        feasibility: Matrix = 1 - np.clip(mean, 0.0, MOST_CERTAIN)
        return feasibility

    def _surrogate(
        self, quantity: str, known: NDArray[np.int64], values: NDArray[np.float64]
    ) -> Surrogate:
        """Return the Gaussian process of a quantity, conditioned on `values` at `known`.

        Its hyperparameters are fitted to the observations of the last refit, from the start: a
        run that was stopped and resumed has the same ones.
        """
        points = self._candidates.points[known]
        refit = last_refit(len(known))
        fitted, surrogate = self._surrogates.get(quantity, (-1, None))
        if surrogate is None or fitted != refit:
            surrogate = Surrogate(self._candidates.axes)
            surrogate.fit_hyperparameters(points[:refit], values[:refit])
            self._surrogates[quantity] = refit, surrogate
        some = subsample(len(known), MOST_CONDITIONED)
        surrogate.condition(points[some], values[some])
        return surrogate

    def _expected_improvement(
        self,
        observations: Observations,
        pool: NDArray[np.int64],
        mean: Matrix,
        deviation: Matrix,
        running: NDArray[np.int64],
        running_mean: Matrix,
    ) -> NDArray[np.float64]:
        """Return the expected hypervolume improvement of each candidate of the pool.

        As a share of the hypervolume that its workload is predicted to have.
        """
        of_pool = self._candidates.workloads[pool]
        fronts = self._feasible(observations)
        of_running = self._candidates.workloads[running]
        improvement = np.zeros(len(pool))
        for workload in np.unique(of_pool):
            mine = np.flatnonzero(of_pool == workload)
            front = fronts.get(int(workload), np.empty((0, 2)))
            if len(running):
                front = np.concatenate([front, running_mean[of_running == workload]])
            everything = np.concatenate([mean[mine], front])
            reference = everything.max(axis=0) + MARGIN
            whole = max(hypervolume(everything, reference), 1e-3)
            optimism = 0.0 if len(front) else OPTIMISM
            drawn = mean[mine, None] + (self._normal - optimism) * deviation[mine, None]
            improvement[mine] = improvements(front, reference, drawn).mean(axis=1) / whole
        return improvement

    def _feasible(self, observations: Observations) -> dict[int, Matrix]:
        """Return, by workload, the values of what was measured and did not fail."""
        feasible = ~np.isin(observations.known, list(observations.failed))
        workload_of = self._candidates.workloads[observations.known[feasible]]
        order = np.argsort(workload_of, kind="stable")
        workloads, starts = np.unique(workload_of[order], return_index=True)
        ends = [*starts[1:], len(order)][: len(starts)]
        values = observations.numbers[feasible][order]
        return {
            workload: values[start:end]
            for workload, start, end in zip(workloads.tolist(), starts, ends, strict=True)
        }


def last_refit(count: int) -> int:
    """Return after how many of `count` observations the refit schedule last refitted."""
    refit = LEAST_REFIT_GROWTH
    while (following := refit + _growth(refit)) <= count:
        refit = following
    return min(refit, count)


def _growth(refit: int) -> int:
    """Return how many observations after a refit the next one is due."""
    share = REFIT_GROWTH if refit < LATE else LATE_REFIT_GROWTH
    return max(LEAST_REFIT_GROWTH, int(share * refit))


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
