"""The exported JSON: one versioned document, from which the winners load back as attention."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from objectives.schema.environment import Environment
from objectives.schema.evaluation import Evaluation, Measurements, Outcome, Positive
from objectives.schema.limits import Limits
from studies.export.fallback import single_or_default
from studies.export.single import best_single
from studies.results.candidate import Candidate
from studies.results.front import PREFERENCES, WorkloadResult, front, strict, winners
from studies.results.results import Results
from studies.study.attributes import StudyError
from studies.study.baseline import WorkloadBaseline
from studies.study.finalists import FinalistTimings
from variants.deploy.key_range import RANGES_AN_OCTAVE, SHORTEST_RANGE
from variants.deploy.loading_schema import (
    SCHEMA_VERSION,
    LoadableChoice,
    LoadableSingle,
    LoadableWorkload,
    Pick,
    Prefer,
)
from variants.deploy.targets import Target, obstacle_to, targets_of
from variants.device import DeviceKind
from variants.plugins import Plugin

SCHEMA_FILE = Path(__file__).with_name("best.schema.json")


class ExportedChoice(LoadableChoice):
    """A configuration worth choosing, with every number that speaks for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    trial: int | None  # None: the default itself
    targets: tuple[Target, ...]  # where it runs as it was measured
    measurements: Measurements
    memory_vs_default: Positive  # below 1 is less
    latency_vs_default: Positive  # below 1 is faster
    ties: tuple[str, ...] = ()  # keys of variants that cannot be told from it

    @model_validator(mode="after")
    def _is_accurate(self) -> ExportedChoice:
        if not 0 <= self.measurements.relative_error < math.inf:
            raise ValueError(
                f"relative_error must be finite, got {self.measurements.relative_error}"
            )
        return self


class ExportedWorkload(LoadableWorkload):
    """A workload, its default and what was chosen for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    choices: Mapping[str, ExportedChoice]
    default: Evaluation
    default_is_roofline: bool  # the default failed, and ratios are to its roofline
    front: tuple[ExportedChoice, ...]  # by rising memory
    finals: FinalistTimings | None = (
        None  # the finalists timed again in turns, against the default
    )


class ExportedSingle(LoadableSingle):
    """The best choice of the model's axes for all workloads, and what it costs each of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    choices: tuple[ExportedChoice, ...]
    regrets: tuple[float, ...]  # of each choice; 0.1: a tenth worse than the workload's winner
    mean_regret: float
    worst_regret: float
    missing: tuple[str, ...]  # keys of workloads for which nothing of it was measured


class ExportedStudy(BaseModel):
    """The study that the choices come from, and how it was searched."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sampler: str
    seed: int
    limits: Limits
    trials: int
    outcomes: dict[Outcome, int]


class Admitted(BaseModel):
    """What a configuration had to be, beyond the study's limits, to be chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_memory_gib: float | None = None  # peak memory
    executions: tuple[str, ...] | None = None  # None: all
    target: Target | None = None  # where it must run; None: anywhere

    def admits(self, candidate: Candidate, kind: DeviceKind) -> bool:
        """Tell whether a configuration may be chosen that was measured on a kind of device.

        The default is there whatever runs in its place: its memory alone can keep it out.
        """
        if self.max_memory_gib is not None and candidate.memory > 1024 * self.max_memory_gib:
            return False
        if candidate.number is None:
            return True
        configuration = candidate.evaluation.configuration
        if self.executions is not None and configuration.variant.execution not in self.executions:
            return False
        return self.target is None or obstacle_to(self.target, configuration, kind) is None


class PartlyFilledCache(BaseModel):
    """What holds where a cache has room for more than it holds: full ones were measured.

    Its memory is that of its capacity. A captured step attends to the keys that are there and to
    a few more, by whichever of the two numbers is larger, and never beyond the capacity; what is
    launched kernel by kernel, to those that are there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    captured_extra_share: float = 1 / RANGES_AN_OCTAVE  # of the keys that are there, at most
    captured_extra_keys: int = SHORTEST_RANGE - 1


class Export(BaseModel):
    """The exported document: where it was measured, and what was chosen for each workload."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    schema_version: Literal[2] = SCHEMA_VERSION
    created: datetime
    environment: Environment
    study: ExportedStudy
    admitted: Admitted
    pick: Pick  # what loading takes where it is not told otherwise
    prefer: Prefer
    partly_filled_cache: PartlyFilledCache = PartlyFilledCache()
    plugins: tuple[Plugin, ...]  # whose names the choices may hold; loading asks for them
    workloads: tuple[ExportedWorkload, ...]
    single: Mapping[str, ExportedSingle]  # by the names of choices


def build_export(
    results: Results,
    *,
    pick: Pick = "single",
    prefer: Prefer = "balanced",
    admitted: Admitted | None = None,
) -> Export:
    """Return the document of a study's results.

    Both picks and all preferences are in it. What needs all trials is decided here: who is
    admitted at all, and which single choice serves all workloads.

    Raises:
        StudyError: No configuration that was measured is admitted.
    """
    plan = results.plan
    admitted = admitted or Admitted()
    kind = results.environment.device.kind
    workloads = [_narrowed(result, admitted, plan.limits, kind) for result in results.workloads]
    if not any(result.measured for result in workloads):
        raise StudyError(
            f"study {results.study_name} holds no measured configuration within the limits given"
        )
    return Export(
        created=datetime.now(UTC),
        environment=results.environment,
        admitted=admitted,
        pick=pick,
        prefer=prefer,
        plugins=plan.plugins,
        study=ExportedStudy(
            name=results.study_name,
            sampler=plan.sampler,
            seed=plan.seed,
            limits=plan.limits,
            trials=len(results.trials),
            outcomes=dict(results.outcomes),
        ),
        workloads=tuple(_workload(result, kind) for result in workloads),
        single=_singles(workloads, plan.limits, kind),
    )


def _narrowed(
    result: WorkloadResult, admitted: Admitted, limits: Limits, kind: DeviceKind
) -> WorkloadResult:
    """Return what is left of a workload's result of those who are admitted."""
    return _only(result, [c for c in result.measured if admitted.admits(c, kind)], limits)


def _only(result: WorkloadResult, kept: Sequence[Candidate], limits: Limits) -> WorkloadResult:
    """Return a workload's result of some of its candidates."""
    return replace(
        result,
        measured=tuple(kept),
        front=front(kept),
        winners=winners(kept, result.baseline),
        strict_winners=winners(strict(kept, limits), result.baseline),
    )


def _singles(
    results: Sequence[WorkloadResult], limits: Limits, kind: DeviceKind
) -> dict[str, ExportedSingle]:
    """Return the single choices by preference, and those among small errors where they differ."""
    exact = [_only(result, strict(result.measured, limits), limits) for result in results]
    found = {}
    for prefix, pool in (("", results), ("strict_", exact)):
        for preference in PREFERENCES:
            single = single_or_default(best_single(pool, preference), pool, preference)
            if single is None:
                continue
            served = [result for result in pool if result.workload.key in single.candidates]
            found[prefix + preference] = ExportedSingle(
                model=single.model,
                choices=tuple(
                    _choice(single.candidates[result.workload.key], result.baseline, kind)
                    for result in served
                ),
                regrets=tuple(single.regrets[result.workload.key] for result in served),
                mean_regret=single.mean_regret,
                worst_regret=single.worst_regret,
                missing=single.missing,
            )
    return found


def _workload(result: WorkloadResult, kind: DeviceKind) -> ExportedWorkload:
    return ExportedWorkload(
        workload=result.workload,
        default=result.default,
        default_is_roofline=not result.baseline.measured,
        choices={
            name: _choice(winner.candidate, result.baseline, kind, winner.ties)
            for name, winner in (
                *result.winners.items(),
                *((f"strict_{name}", winner) for name, winner in result.strict_winners.items()),
            )
        },
        front=tuple(_choice(candidate, result.baseline, kind) for candidate in result.front),
        finals=result.finals,
    )


def _choice(
    candidate: Candidate,
    baseline: WorkloadBaseline,
    kind: DeviceKind,
    ties: tuple[Candidate, ...] = (),
) -> ExportedChoice:
    return ExportedChoice(
        configuration=candidate.evaluation.configuration,
        resolved_backend=candidate.measurements.backend_ran,
        trial=candidate.number,
        targets=targets_of(candidate.evaluation.configuration, kind),
        measurements=candidate.measurements,
        memory_vs_default=candidate.memory / baseline.peak_memory_mib,
        latency_vs_default=candidate.latency / baseline.latency_ms,
        ties=tuple(tie.evaluation.configuration.variant.key for tie in ties),
    )


def export_schema() -> str:
    """Return the JSON Schema of the document, as it is published in `SCHEMA_FILE`."""
    schema = Export.model_json_schema(mode="serialization")
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"
