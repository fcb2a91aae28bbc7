"""How a search went on: what share of its final hypervolume it had after so many trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from objectives.evaluation import Outcome
from studies.front import Candidate, WorkloadResult
from studies.hypervolume import hypervolume
from studies.results import Results
from studies.surrogate import Matrix

MARGIN = 0.05  # log10 units behind the default and the front's ends, so that these count too


@dataclass(frozen=True, slots=True)
class History:
    """Shares of the final hypervolume, after 0, 1, 2, … trials; of 0, the default is known."""

    mean: tuple[float, ...]  # over workloads
    by_workload: dict[str, tuple[float, ...]]  # by key, where anything was measured


def hypervolume_history(results: Results) -> History:
    """Return the hypervolume of each workload's front as it grew, as a share of the last one.

    In log10 of memory and of latency, so that halving counts the same everywhere. The worst
    corner is that of the default and of the final front's ends: what is worse does not count.
    """
    found = [result for result in results.workloads if result.front]
    by_workload = {result.workload.key: _history(result, results) for result in found}
    if not found:
        return History((), {})
    trials = len(results.told) + 1
    mean = tuple(
        float(np.mean([history[n] for history in by_workload.values()])) for n in range(trials)
    )
    return History(mean, by_workload)


def _history(result: WorkloadResult, results: Results) -> tuple[float, ...]:
    corner = _corner(result)
    known = [_point(c) for c in result.measured if c.number is None]
    whole = hypervolume(_points(result.measured), corner)
    shares = [hypervolume(_matrix(known), corner) / whole]
    for trial in results.told:
        evaluation = trial.evaluation
        mine = evaluation.configuration.workload.key == result.workload.key
        if mine and evaluation.outcome is Outcome.MEASURED:
            known.append(_point(Candidate(trial.number, evaluation)))
            shares.append(hypervolume(_matrix(known), corner) / whole)
        else:
            shares.append(shares[-1])
    return tuple(shares)


def _corner(result: WorkloadResult) -> Matrix:
    unit = (math.log10(result.unit.peak_memory_mib), math.log10(result.unit.latency_ms))
    corner: Matrix = np.vstack([_points(result.front), [unit]]).max(axis=0) + MARGIN
    return corner


def _points(candidates: Sequence[Candidate]) -> Matrix:
    return _matrix([_point(candidate) for candidate in candidates])


def _matrix(points: Sequence[tuple[float, float]]) -> Matrix:
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def _point(candidate: Candidate) -> tuple[float, float]:
    return math.log10(candidate.memory), math.log10(candidate.latency)
