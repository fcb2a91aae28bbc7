"""How a search went on: what share of its final hypervolume it had after so many trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from studies.numerics.arrays import Matrix
from studies.numerics.hypervolume import hypervolume, pareto_front
from studies.results.candidate import Candidate
from studies.results.front import WorkloadResult
from studies.results.results import Results

MARGIN = 0.05  # log10 units behind the default and the front's ends, so that these count too


@dataclass(frozen=True, slots=True)
class Steps:
    """A step function of the number of trials: `shares[i]` holds from `trials[i]` trials on."""

    trials: tuple[int, ...]  # rising, the first is 0
    shares: tuple[float, ...]

    def up_to(self, trials: int) -> tuple[float, ...]:
        """Return the share after 0, 1, 2, … and so many trials."""
        lasting = np.diff([*self.trials, trials + 1])
        return tuple(np.repeat(self.shares, lasting).tolist())


@dataclass(frozen=True, slots=True)
class History:
    """Shares of the final hypervolume over trials; after none, the default is known."""

    trials: int
    mean: Steps | None  # over workloads; None where nothing was measured
    by_workload: dict[str, Steps]  # by key, where anything was measured


def hypervolume_history(results: Results) -> History:
    """Return the hypervolume of each workload's front as it grew, as a share of the last one.

    In log10 of memory and of latency, so that halving counts the same everywhere. The worst
    corner is that of the default and of the final front's ends: what is worse does not count.
    """
    place_of = {trial.number: place for place, trial in enumerate(results.trials, 1)}
    by_workload = {
        result.workload.key: _history(result, place_of)
        for result in results.workloads
        if result.front
    }
    return History(len(results.trials), _mean(list(by_workload.values())), by_workload)


def _history(result: WorkloadResult, place_of: Mapping[int, int]) -> Steps:
    """Return the history of one workload; `place_of` trials by their numbers, from 1."""
    corner = _corner(result)
    # A point that another one is no worse than changes nothing: only the front is kept.
    front = _points([c for c in result.measured if c.number is None])
    whole = hypervolume(_points(result.measured), corner)
    trials, shares = [0], [hypervolume(front, corner) / whole]
    for candidate in result.measured:
        point = _point(candidate)
        if candidate.number is None or (front <= point).all(axis=1).any():
            continue
        front = pareto_front(np.vstack([front, point]))
        trials.append(place_of[candidate.number])
        shares.append(hypervolume(front, corner) / whole)
    return Steps(tuple(trials), tuple(shares))


def _mean(histories: Sequence[Steps]) -> Steps | None:
    if not histories:
        return None
    now = [history.shares[0] for history in histories]
    changes = sorted(
        (trial, place, share)
        for place, history in enumerate(histories)
        for trial, share in zip(history.trials[1:], history.shares[1:], strict=True)
    )
    trials, shares = [0], [float(np.mean(now))]
    for trial, place, share in changes:  # a trial belongs to one workload
        now[place] = share
        trials.append(trial)
        shares.append(float(np.mean(now)))
    return Steps(tuple(trials), tuple(shares))


def _corner(result: WorkloadResult) -> Matrix:
    baseline = (
        math.log10(result.baseline.peak_memory_mib),
        math.log10(result.baseline.latency_ms),
    )
    corner: Matrix = np.vstack([_points(result.front), [baseline]]).max(axis=0) + MARGIN
    return corner


def _points(candidates: Sequence[Candidate]) -> Matrix:
    return _matrix([_point(candidate) for candidate in candidates])


def _matrix(points: Sequence[tuple[float, float]]) -> Matrix:
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def _point(candidate: Candidate) -> tuple[float, float]:
    return math.log10(candidate.memory), math.log10(candidate.latency)
