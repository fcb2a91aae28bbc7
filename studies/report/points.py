"""Every trial as the page's figures, filters and table need it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from objectives.schema.evaluation import Evaluation, Outcome
from studies.results.candidate import in_turns, share_of_roofline
from studies.results.front import WorkloadResult
from studies.results.labels import variant_label, workload_label
from studies.results.results import Results
from studies.study.trials import FinishedTrial
from variants.axes import AXES

INACTIVE = "inactive"  # where an axis means nothing
Json = Mapping[str, object]


def page_data(results: Results, kept: Collection[int]) -> Json:
    """Return what the page's script draws of the trials that are kept; JSON without infinities."""
    varying = set(results.plan.space.searched)
    places = {result.workload.key: place for place, result in enumerate(results.workloads)}
    axes = [axis for axis in results.plan.space.searched if AXES[axis].of_variant]
    by_workload = results.trials_by_workload()
    defaults = [
        _point(None, result.default, place, axes) for place, result in enumerate(results.workloads)
    ]
    trials = [
        _point(
            trial.number, in_turns(trial.evaluation, results.workloads[place].finals), place, axes
        )
        for trial in results.trials
        if trial.number in kept
        and (place := places.get(trial.evaluation.configuration.workload.key)) is not None
    ]
    return {
        "axes": {axis: [*results.plan.space.axes[axis], INACTIVE] for axis in axes},
        "outcomes": [outcome.value for outcome in Outcome],
        "workloads": [
            {
                "label": workload_label(result.workload, varying),
                "roofline": _roofline(result, by_workload.get(result.workload.key, [])),
                "balanced": _balanced(result),
                "front": [candidate.number for candidate in result.front],
            }
            for result in results.workloads
        ],
        "trials": defaults + trials,
    }


def _balanced(result: WorkloadResult) -> int | None:
    """Return the trial of the balanced winner; None for the default, or without one."""
    return result.winners["balanced"].candidate.number if result.winners else None


def _roofline(result: WorkloadResult, trials: Sequence[FinishedTrial]) -> Json | None:
    """Return the least that any configuration tried needs, by the roofline of the study."""
    tried = (result.default, *(trial.evaluation for trial in trials))
    found = [each.measurements.roofline for each in tried if each.measurements is not None]
    least = [one for one in found if one is not None and one.rates != "typical"]
    if not least:
        return None
    return {
        "latency": min(one.latency_ms for one in least),
        "memory": min(one.memory_mib for one in least),
    }


def _point(number: int | None, evaluation: Evaluation, place: int, axes: list[str]) -> Json:
    variant, measured = evaluation.configuration.variant, evaluation.measurements
    chosen = variant.model_dump()
    point: dict[str, object] = {
        "trial": number,  # None: the default
        "workload": place,
        "name": variant_label(variant, None if measured is None else measured.backend_ran),
        "values": {axis: INACTIVE if chosen[axis] is None else chosen[axis] for axis in axes},
        "outcome": evaluation.outcome.value,
        "reason": evaluation.reason,
    }
    if measured is None:
        return point
    latency = measured.latency
    return point | {
        "latency": latency.latency_ms,
        "low": latency.low_ms,
        "high": latency.high_ms,
        "gpu": None if latency.gpu is None else latency.gpu.value,
        "host": latency.host.value,
        "bound": latency.bound,
        "memory": measured.memory.peak_mib,
        "error": measured.relative_error if math.isfinite(measured.relative_error) else None,
        "ran": measured.backend_ran,
        "roofline": share_of_roofline(measured),
    }
