"""The exported JSON: one versioned document, from which the winners load back as attention."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, model_validator

from objectives.schema.environment import Environment
from objectives.schema.evaluation import Evaluation, Measurements, Outcome, Positive
from objectives.schema.limits import Limits
from studies.export.fallback import single_or_default
from studies.export.single import Single, best_single
from studies.results.candidate import Candidate
from studies.results.front import PREFERENCES, WorkloadResult, front, strict, winners
from studies.results.results import Results
from studies.study.attributes import StudyError
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
    # The default's latency and memory, divided by these: above 1 is faster, and smaller.
    speedup: Positive
    speedup_low: Positive  # 95 % interval, of turns with the default where there were such
    speedup_high: Positive
    memory_reduction: Positive

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

    configurations: tuple[ExportedChoice, ...]
    unclear: tuple[str, ...]  # choices that others may share, as far as their times can tell
    default: Evaluation
    default_is_roofline: bool  # the default failed, and ratios are to its roofline
    # The rest is in a full file alone.
    ties: Mapping[str, tuple[str, ...]] = {}  # by choice, keys of variants that are as good
    front: tuple[NonNegativeInt, ...] = ()  # by rising memory, places among the configurations
    finals: FinalistTimings | None = None  # the finalists, timed in turns with the default

    @property
    def chosen(self) -> dict[str, ExportedChoice]:
        """What was chosen, by the names of the choices."""
        return {name: self.configurations[place] for name, place in self.choices.items()}


class ExportedSingle(LoadableSingle):
    """The best choice of the model's axes for all workloads, and what it costs each of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    # Of each workload, None where it was not measured; 0.1: a tenth worse than its own winner.
    regrets: tuple[float | None, ...]
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

    schema_version: Literal[3] = SCHEMA_VERSION
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

    @model_validator(mode="after")
    def _holds_its_single_choices(self) -> Export:
        for single in self.single.values():
            single.check_choices(self.workloads)
        return self

    def of_single(self, name: str) -> list[ExportedChoice | None]:
        """Return what one choice for all comes to for each workload; None: not measured."""
        if name not in self.single:
            return [None] * len(self.workloads)
        return [
            None if place is None else workload.configurations[place]
            for workload, place in zip(self.workloads, self.single[name].choices, strict=True)
        ]


def build_export(
    results: Results,
    *,
    pick: Pick = "single",
    prefer: Prefer = "balanced",
    admitted: Admitted | None = None,
    full: bool = False,
    worst_first: bool = False,
) -> Export:
    """Return the document of a study's results.

    Both picks and all preferences are in it. What needs all trials is decided here: who is
    admitted at all, and which single choice serves all workloads.

    Args:
        results: Of the study.
        pick: What loading takes where it is not told otherwise.
        prefer: Which winners it takes.
        admitted: Who may be chosen; all where it is not given.
        full: Also fronts, ties, finalists, kernels and conditions, which neither loading nor
            verifying needs.
        worst_first: Of single choices, take that of the least worst regret, not of the least
            mean.

    Raises:
        StudyError: No configuration that was measured is admitted.
    """
    plan = results.plan
    admitted = admitted or Admitted()
    kind = results.environment.device.kind
    workloads = narrowed(results, admitted)
    singles = _singles(workloads, plan.limits, worst_first=worst_first)
    entries = [_Entry(result, full=full) for result in workloads]
    single = {name: _single(one, entries) for name, one in singles.items()}
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
        workloads=tuple(entry.exported(kind) for entry in entries),
        single=single,
    )


def narrowed(results: Results, admitted: Admitted) -> list[WorkloadResult]:
    """Return the results of workloads, of those alone who are admitted.

    Raises:
        StudyError: There are none.
    """
    limits, kind = results.plan.limits, results.environment.device.kind
    workloads = [
        _only(result, [c for c in result.measured if admitted.admits(c, kind)], limits)
        for result in results.workloads
    ]
    if not any(result.measured for result in workloads):
        raise StudyError(
            f"study {results.study_name} holds no measured configuration within the limits given"
        )
    return workloads


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
    results: Sequence[WorkloadResult], limits: Limits, *, worst_first: bool
) -> dict[str, Single]:
    """Return the single choices by preference, and those among small errors where they differ."""
    exact = [_only(result, strict(result.measured, limits), limits) for result in results]
    found = {}
    for prefix, pool in (("", results), ("strict_", exact)):
        for preference in PREFERENCES:
            best = best_single(pool, preference, worst_first=worst_first)
            single = single_or_default(best, pool, preference)
            if single is not None:
                found[prefix + preference] = single
    return found


class _Entry:
    """A workload of the document, whose configurations are gathered, each once."""

    def __init__(self, result: WorkloadResult, *, full: bool) -> None:
        self.result, self._full = result, full
        self._candidates: dict[str, Candidate] = {}
        self._winners = dict(result.winners.items()) | {
            f"strict_{name}": winner for name, winner in result.strict_winners.items()
        }
        self._choices = {name: self.place(w.candidate) for name, w in self._winners.items()}
        self._front = tuple(map(self.place, result.front)) if full else ()

    def place(self, candidate: Candidate) -> int:
        """Return the place of a configuration among those of this workload."""
        self._candidates.setdefault(candidate.key, candidate)
        return list(self._candidates).index(candidate.key)

    def exported(self, kind: DeviceKind) -> ExportedWorkload:
        """Return what stands in the document, with all that was given a place."""
        result = self.result
        ties = {
            name: tuple(tie.key for tie in winner.ties)
            for name, winner in self._winners.items()
            if winner.ties
        }
        return ExportedWorkload(
            workload=result.workload,
            configurations=tuple(
                _choice(candidate, result, kind, full=self._full)
                for candidate in self._candidates.values()
            ),
            choices=self._choices,
            unclear=tuple(name for name, winner in self._winners.items() if not winner.clear),
            default=result.default if self._full else _brief(result.default),
            default_is_roofline=not result.baseline.measured,
            ties=ties if self._full else {},
            front=self._front,
            finals=result.finals if self._full else None,
        )


def _single(single: Single, entries: Sequence[_Entry]) -> ExportedSingle:
    keys = [entry.result.workload.key for entry in entries]
    return ExportedSingle(
        model=single.model,
        choices=tuple(
            entry.place(single.candidates[key]) if key in single.candidates else None
            for key, entry in zip(keys, entries, strict=True)
        ),
        regrets=tuple(single.regrets.get(key) for key in keys),
        mean_regret=single.mean_regret,
        worst_regret=single.worst_regret,
        missing=single.missing,
    )


def _choice(
    candidate: Candidate, result: WorkloadResult, kind: DeviceKind, *, full: bool
) -> ExportedChoice:
    latency, ratio = candidate.measurements.latency, result.latency_ratio(candidate)
    low, high = (
        ratio * latency.low_ms / latency.latency_ms,
        ratio * latency.high_ms / (latency.latency_ms),
    )
    if candidate.verdict is not None:
        low, high = candidate.verdict.low, candidate.verdict.high
    evaluation = candidate.evaluation if full else _brief(candidate.evaluation)
    assert evaluation.measurements is not None
    return ExportedChoice(
        variant=evaluation.configuration.variant,
        resolved_backend=candidate.measurements.backend_ran,
        trial=candidate.number,
        targets=targets_of(evaluation.configuration, kind),
        measurements=evaluation.measurements,
        speedup=1 / ratio,
        speedup_low=1 / high,
        speedup_high=1 / low,
        memory_reduction=1 / result.memory_ratio(candidate),
    )


def _brief(evaluation: Evaluation) -> Evaluation:
    """Return an evaluation without what explains its numbers, and neither loads nor verifies."""
    measured = evaluation.measurements
    if measured is not None:
        measured = measured.model_copy(
            update={"kernels": (), "conditions": None, "roofline": None}
        )
    return evaluation.model_copy(update={"measurements": measured, "seconds": {}})


def export_schema() -> str:
    """Return the JSON Schema of the document, as it is published in `SCHEMA_FILE`."""
    schema = Export.model_json_schema(mode="serialization")
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"
