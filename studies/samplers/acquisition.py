"""Proposes what to measure next, from what was measured and a prior: points, not names.

Every workload has a front of its own, and the gain of a candidate is the hypervolume that it is
expected to add to its own workload's, as a share of what that workload is predicted to have.
After Emmerich, Deutz and Klinkenberg, Hypervolume-based expected improvement, CEC 2011, with
several fronts and one surrogate. All is a function of the seed and of what was told, in order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, qmc

from studies.numerics.arrays import Matrix
from studies.numerics.gp import Axes, Surrogate, spread
from studies.numerics.hypervolume import gains, hypervolume
from studies.numerics.threads import one_thread
from studies.samplers.observations import Told

# What is expensive is done anew when trials have grown by this share, but not at every trial:
# hyperparameters and the shortlist change slowly.
GROWTH, LEAST_GROWTH = 0.1, 5
LATE, LATE_GROWTH = 300, 0.25  # after so many trials, more than are fitted, more slowly still
MARGIN = 0.05  # log10 units behind the worst point: where hypervolumes are measured from
DOUBT = 0.3  # deviation of the prior, in log10 units
# Of a workload without a front, deviations that a prediction is believed to be better: greed
# would never try what the prior gets wrong.
OPTIMISM = 1.0
SAMPLES = 32
RIDGE = 0.5  # evidence, in squared log10 units, that outweighs the belief in a prior
MOST_CERTAIN = 0.98  # that a candidate fails
MOST_OPEN = 2_500  # candidates that are all looked at for each proposal
MOST_CANDIDATES = 1_000  # of more than that, so many are
MOST_SCANNED = 40_000  # looked at when the shortlist is made
MOST_POINTS = 300  # that the surrogate learns from
MOST_RANKED = 64  # kept of a proposal's ranking


@dataclass(frozen=True, slots=True)
class Candidates:
    """Everything that can be proposed."""

    points: Matrix  # (n, axes): codes of named axes, log2 of numbers
    axes: Axes
    workloads: NDArray[np.int64]  # (n,)
    prior: Matrix | None  # (n, 2): expected log10 memory and log10 latency


@dataclass(frozen=True, slots=True)
class Proposal:
    """What to measure next."""

    index: int
    # What the best candidate of each workload is expected to add to its hypervolume, as a share of
    # it, on average over the workloads.
    expected_gain: float


class Proposer:
    """Chooses among candidates."""

    def __init__(self, candidates: Candidates, seed: int) -> None:
        """Remember the candidates; nothing is learnt yet."""
        self._candidates, self._seed = candidates, seed
        workloads = int(candidates.workloads.max()) + 1
        self._order = np.random.default_rng(seed).permutation(workloads)
        count = len(candidates.points)
        prior = candidates.prior
        self._prior = np.zeros((count, 2)) if prior is None else prior
        uniform = qmc.Sobol(2, seed=0).random(SAMPLES)
        self._normal = norm.ppf(np.clip(uniform, 1e-4, 1 - 1e-4))
        # By quantity: to how many trials its hyperparameters are fitted, and the surrogate.
        self._learnt: dict[str, tuple[int, Surrogate]] = {}
        self._listed: tuple[int, NDArray[np.int64]] | None = None  # after so many trials
        self.ranked: list[int] = []  # the best of the last proposal's candidates, that one first

    def propose(self, told: Told) -> Proposal | None:
        """Return the best candidate; None when all were tried."""
        pool, gain = self.rank(told)
        if not len(pool):
            return None
        rng = np.random.default_rng((self._seed, len(told.tried)))
        of_pool = self._candidates.workloads[pool]
        best_gains = np.zeros(len(self._order))
        np.maximum.at(best_gains, of_pool, gain)
        worth = gain + 1e-9 * rng.random(len(pool))
        unserved = np.setdiff1d(of_pool, self._candidates.workloads[told.indexes])
        if len(unserved):
            # Every workload is served first, in an order that favours none: which of them gains
            # most by its first measurement, no prior knows.
            worth[of_pool != unserved[np.argmin(self._order[unserved])]] = -1.0
        self.ranked = pool[np.argsort(-worth)[:MOST_RANKED]].tolist()
        return Proposal(int(pool[np.argmax(worth)]), float(best_gains.mean()))

    def rank(self, told: Told) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return untried candidates and what each is expected to add to its workload's volume."""
        with one_thread():
            return self._rank(told)

    def _rank(self, told: Told) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        pool = self._pool(told)
        if not len(pool):
            return pool, np.zeros(0)
        # What is being measured counts at its predicted values: nobody proposes its like.
        running = np.array(sorted(told.running), dtype=np.int64)
        mean, deviation = self._predict(told, np.r_[pool, running], certain=len(running))
        gain = self._gain(
            told, pool, mean[: len(pool)], deviation[: len(pool)], running, mean[len(pool) :]
        )
        return pool, gain * self._success(told, pool)

    def _pool(self, told: Told) -> NDArray[np.int64]:
        """Return the untried candidates, or, of very many, the promising and some others."""
        open_ = np.ones(len(self._candidates.points), dtype=bool)
        open_[told.indexes] = False
        untried = np.flatnonzero(open_)
        if len(untried) <= MOST_OPEN:
            return untried
        shortlist = self._shortlist(told)
        rng = np.random.default_rng((self._seed, len(told.tried), 1))
        others = rng.choice(untried, MOST_CANDIDATES // 2, replace=False)
        return np.union1d(shortlist[open_[shortlist]], others)

    def _shortlist(self, told: Told) -> NDArray[np.int64]:
        """Return the most promising candidates of each workload, by expected values alone.

        They are those after so many trials, whenever they are asked for.
        """
        stop = _settled(len(told.values))
        if self._listed is None or self._listed[0] != stop:
            before = Told(
                dict(list(told.values.items())[:stop]), told.failed & frozenset(told.values)
            )
            rng = np.random.default_rng((self._seed, stop, 2))
            count = len(self._candidates.points)
            scanned = np.sort(rng.choice(count, min(count, MOST_SCANNED), replace=False))
            mean, deviation = self._predict(before, scanned, certain=len(scanned))
            none = np.empty(0, dtype=np.int64), np.empty((0, 2))
            gain = self._gain(before, scanned, mean, deviation, *none)
            self._listed = stop, self._best_of_each(scanned, gain)
        return self._listed[1]

    def _best_of_each(
        self, scanned: NDArray[np.int64], gain: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Return an equal number of each workload's best."""
        workloads = self._candidates.workloads[scanned]
        order = np.lexsort((-gain, workloads))
        starts = np.searchsorted(workloads[order], workloads[order])
        place = np.arange(len(order)) - starts  # within its workload
        each = max(1, MOST_CANDIDATES // 2 // len(np.unique(workloads)))
        return np.sort(scanned[order[place < each]])

    def _predict(
        self, told: Told, pool: NDArray[np.int64], *, certain: int = 0
    ) -> tuple[Matrix, Matrix]:
        """Return mean and deviation of log10 memory and log10 latency, `(n, 2)` each.

        `certain`: how many of the last ones are taken as if their means were sure, which costs
        far less.
        """
        known, values = told.known, told.numbers
        prior = self._prior[pool]
        if not len(known):
            return prior, np.full_like(prior, DOUBT)
        trust = _trust(self._prior[known], values)
        residuals = values - trust * self._prior[known]
        means, deviations = trust * prior, np.zeros_like(prior)
        for column, quantity in enumerate(("memory", "latency")):
            surrogate = self._learn(quantity, known, residuals[:, column])
            points, uncertain = self._candidates.points[pool], len(pool) - certain
            if uncertain:
                mean, deviations[:uncertain, column] = surrogate.predict(points[:uncertain])
                means[:uncertain, column] += mean
            if certain:
                means[uncertain:, column] += surrogate.expect(points[uncertain:])
        return means, deviations

    def _success(self, told: Told, pool: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the probability that a candidate does not fail, learnt like any other number."""
        if not told.failed:
            return np.ones(len(pool))
        tried = dict.fromkeys((*told.values, *sorted(told.failed)))
        known = np.array(list(tried), dtype=np.int64)
        lost = np.isin(known, list(told.failed)).astype(np.float64)
        mean = self._learn("failure", known, lost).expect(self._candidates.points[pool])
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
        stop = _settled(len(known))
        fitted, surrogate = self._learnt.get(quantity, (-1, None))
        if surrogate is None or fitted != stop:
            surrogate = Surrogate(self._candidates.axes)
            surrogate.learn(points[:stop], values[:stop])
            self._learnt[quantity] = stop, surrogate
        some = spread(len(known), MOST_POINTS)
        surrogate.fit(points[some], values[some])
        return surrogate

    def _gain(
        self,
        told: Told,
        pool: NDArray[np.int64],
        mean: Matrix,
        deviation: Matrix,
        running: NDArray[np.int64],
        running_mean: Matrix,
    ) -> NDArray[np.float64]:
        of_pool = self._candidates.workloads[pool]
        fronts = self._usable(told)
        of_running = self._candidates.workloads[running]
        gain = np.zeros(len(pool))
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
            gain[mine] = gains(front, reference, drawn).mean(axis=1) / whole
        return gain

    def _usable(self, told: Told) -> dict[int, Matrix]:
        """Return, by workload, the values of what was measured and did not fail."""
        usable = ~np.isin(told.known, list(told.failed))
        of_usable = self._candidates.workloads[told.known[usable]]
        order = np.argsort(of_usable, kind="stable")
        workloads, starts = np.unique(of_usable[order], return_index=True)
        ends = [*starts[1:], len(order)][: len(starts)]
        values = told.numbers[usable][order]
        return {
            workload: values[start:end]
            for workload, start, end in zip(workloads.tolist(), starts, ends, strict=True)
        }


def _settled(count: int) -> int:
    """Return the last number of trials, up to `count`, at which the expensive was done anew."""
    stop = LEAST_GROWTH
    while (following := stop + _growth(stop)) <= count:
        stop = following
    return min(stop, count)


def _growth(stop: int) -> int:
    return max(LEAST_GROWTH, int((GROWTH if stop < LATE else LATE_GROWTH) * stop))


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
