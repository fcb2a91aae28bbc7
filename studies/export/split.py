"""Workloads divided among a few choices of the model's axes, so that none loses much."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from studies.export.fallback import single_or_default
from studies.export.single import Single, best_single, judged
from studies.numerics.arrays import Matrix
from studies.results.front import Preference, WorkloadResult


@dataclass(frozen=True, slots=True)
class ServedPart:
    """Some workloads, and the one choice that serves them."""

    results: tuple[WorkloadResult, ...]
    single: Single


def split(
    results: Sequence[WorkloadResult], preference: Preference, choices: int
) -> list[ServedPart]:
    """Return the workloads in so many parts, or fewer, so that the worst regret is the least.

    Two are the best of all pairs; each further choice is the one that helps most beside those.
    Workloads of which nothing was measured are left out.
    """
    served = [result for result in results if result.measured]
    singles = judged(served, preference)
    if not singles:
        return []
    keys = [result.workload.key for result in served]
    regrets = np.array([[single.regrets.get(key, math.inf) for key in keys] for single in singles])
    assigned = regrets[_chosen(regrets, choices)].argmin(axis=0)
    parts = []
    for place in range(choices):
        mine = [result for result, at in zip(served, assigned, strict=True) if at == place]
        if mine:
            parts.append(ServedPart(tuple(mine), _served_by(mine, preference)))
    return parts


def _served_by(results: Sequence[WorkloadResult], preference: Preference) -> Single:
    best = best_single(results, preference, worst_first=True)
    found = single_or_default(best, results, preference)
    assert found is not None  # all of them have measurements
    return found


def _chosen(regrets: Matrix, choices: int) -> list[int]:
    """Return the rows that together leave the least worst regret, then the least mean."""
    best = min(_subsets(len(regrets), min(2, choices)), key=lambda rows: _left(regrets, rows))
    chosen = list(best)
    while len(chosen) < min(choices, len(regrets)):
        others = (row for row in range(len(regrets)) if row not in chosen)
        chosen.append(min(others, key=lambda row: _left(regrets, (*chosen, row))))
    return chosen


def _subsets(count: int, size: int) -> Iterator[tuple[int, ...]]:
    if size == 1 or count == 1:
        yield from ((row,) for row in range(count))
        return
    yield from ((one, other) for one in range(count) for other in range(one + 1, count))


def _left(regrets: Matrix, rows: Sequence[int]) -> tuple[int, float, float]:
    """Return how many workloads are left out, and the worst and the mean regret of the others."""
    least = regrets[list(rows)].min(axis=0)
    there = least[np.isfinite(least)]
    return len(least) - len(there), float(there.max()), float(there.mean())
