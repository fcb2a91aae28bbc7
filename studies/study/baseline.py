"""The default of each workload: as it was measured, and what others are divided by."""

from __future__ import annotations

from dataclasses import dataclass

import optuna

from objectives.roofline.bound import bound
from objectives.schema.evaluation import Evaluation
from studies.study.attributes import DEFAULT, read_stored
from studies.study.plan import RAW_OBJECTIVES, Plan, objective_names
from studies.study.snapshot import StudyAttributes
from variants.device import Device
from variants.workload import Workload


@dataclass(frozen=True, slots=True)
class WorkloadBaseline:
    """The default's numbers, which a workload's objectives are divided by."""

    peak_memory_mib: float
    latency_ms: float
    measured: bool  # False: the default failed, and its roofline stands in


def objective_baseline(plan: Plan, default: Evaluation, device: Device) -> WorkloadBaseline:
    """Return what a workload's objectives are divided by; see `objective_names`."""
    if objective_names(plan.space) == RAW_OBJECTIVES:
        return WorkloadBaseline(1.0, 1.0, True)
    return baseline_of(default, device)


def baseline_of(default: Evaluation, device: Device) -> WorkloadBaseline:
    """Return the default's numbers, or its roofline where it has none."""
    if default.measurements is not None:
        return WorkloadBaseline(
            default.measurements.memory.peak_mib, default.measurements.latency.latency_ms, True
        )
    least = bound(default.configuration, device)
    return WorkloadBaseline(least.memory_mib, least.latency_ms, False)


def set_default(study: optuna.Study, evaluation: Evaluation) -> None:
    """Store the evaluation of a workload's default."""
    key = DEFAULT + evaluation.configuration.workload.key
    study.set_user_attr(key, evaluation.model_dump(mode="json"))


def default_of(study: StudyAttributes, workload: Workload) -> Evaluation | None:
    """Return the evaluation of the workload's default, if it was measured."""
    key, attributes = DEFAULT + workload.key, study.user_attrs
    if key not in attributes:
        return None
    return read_stored(Evaluation, attributes, key, f"study {study.study_name}")
