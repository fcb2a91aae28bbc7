"""Which trials a page holds: all of a study that is not large, else those worth looking at.

A browser draws some thousands of points at ease, and a hundred thousand in no file worth sending.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from studies.numerics.arrays import evenly_spaced
from studies.results.candidate import Candidate
from studies.results.front import WorkloadResult, front
from studies.results.results import Results
from variants.axes import AXES

MOST_TRIALS = 5_000


def kept_trials(results: Results) -> frozenset[int]:
    """Return the numbers of all trials, or, of very many, those of fronts and some others.

    Fronts are those of each workload and of each choice of an axis in it: what a filter of one
    axis leaves has the same front as all trials would have.
    """
    numbers = [trial.number for trial in results.trials]
    if len(numbers) <= MOST_TRIALS:
        return frozenset(numbers)
    axes = [axis for axis in results.plan.space.searched if AXES[axis].of_variant]
    kept = {number for result in results.workloads for number in _of_fronts(result, axes)}
    others = [number for number in numbers if number not in kept]
    some = evenly_spaced(len(others), max(0, MOST_TRIALS - len(kept)))
    return frozenset(kept).union(others[place] for place in some)


def _of_fronts(result: WorkloadResult, axes: Sequence[str]) -> Iterator[int]:
    chosen = [winner.candidate for winner in result.winners.values()]
    chosen += [winner.candidate for winner in result.strict_winners.values()]
    groups: dict[object, list[Candidate]] = {}
    for candidate in result.measured:
        variant = candidate.evaluation.configuration.variant
        for axis in axes:
            groups.setdefault((axis, getattr(variant, axis)), []).append(candidate)
    for found in (chosen, result.front, *map(front, groups.values())):
        yield from (one.number for one in found if one.number is not None)
