"""What a study has found so far: the one reading of it that tables, exports and pages share."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import optuna
import pandas as pd
from optuna.trial import TrialState

from objectives.schema.environment import Environment
from objectives.schema.evaluation import Evaluation, Measurements, Outcome
from studies.results.candidate import candidates, in_turns
from studies.results.columns import COLUMNS, STAGE
from studies.results.front import WorkloadResult, front, strict, winners
from studies.results.winners_html import winners_html
from studies.study.anchor import AnchorPoint, Drift, DriftMarks, anchors_of, drifts
from studies.study.baseline import baseline_of, default_of
from studies.study.finalists import finalist_timings_of
from studies.study.plan import Plan, environments_of, plan_of
from studies.study.snapshot import Snapshot
from studies.study.trials import FinishedTrial, finished_trials

_NUMBER = re.compile(r"[\d.]+(e[+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class Results:
    """All that a study holds, read once and judged: trials, defaults, fronts, winners."""

    study_name: str
    plan: Plan
    environment: Environment  # the present one
    trials: tuple[FinishedTrial, ...]
    defaults: tuple[Evaluation, ...]
    abandoned: int
    workloads: tuple[WorkloadResult, ...]
    anchors: tuple[AnchorPoint, ...] = ()
    earlier_environments: tuple[Environment, ...] = ()  # of trials with numbers 1, 2, …

    @property
    def drifts(self) -> list[Drift]:
        """The anchors that say that the device was not itself."""
        return drifts(self.anchors, self.environment.device.kind)

    @property
    def outcomes(self) -> Counter[Outcome]:
        """How many trials ended in each outcome; abandoned ones are not trials of the budget."""
        return Counter(trial.evaluation.outcome for trial in self.trials)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: each workload's default and winners."""
        device = self.environment.device
        measured = self.outcomes[Outcome.MEASURED]
        caption = (
            f"study {self.study_name}: {device.name}, torch {device.torch}, "
            f"{measured} of {len(self.trials)} trials measured"
        )
        return winners_html(caption, self.workloads, set(self.plan.space.searched))

    def trials_by_workload(self) -> dict[str, list[FinishedTrial]]:
        """Return the trials of each workload that has any, in order, by its key."""
        found: dict[str, list[FinishedTrial]] = {}
        for trial in self.trials:
            found.setdefault(trial.evaluation.configuration.workload.key, []).append(trial)
        return found

    def reasons(self, outcome: Outcome) -> list[tuple[str, int]]:
        """Return the reasons of one outcome, commonest first, with how often each occurred.

        Reasons that differ in their numbers alone count as one, shown as it first occurred.
        """
        shown: dict[str, str] = {}
        counts: Counter[str] = Counter()
        for trial in self.trials:
            reason = trial.evaluation.reason
            if trial.evaluation.outcome is outcome and reason:
                kind = _NUMBER.sub("#", reason)
                shown.setdefault(kind, reason)
                counts[kind] += 1
        return [(shown[kind], count) for kind, count in counts.most_common()]


def read_results(study: optuna.Study) -> Results:
    """Read everything that a study holds; workloads without a default yet are left out."""
    held = Snapshot.of(study)
    plan = plan_of(held)
    *earlier, environment = environments_of(held)
    trials = tuple(finished_trials(study))
    by_workload: dict[str, list[tuple[int | None, Evaluation]]] = {}
    for trial in trials:
        key = trial.evaluation.configuration.workload.key
        by_workload.setdefault(key, []).append((trial.number, trial.evaluation))
    workloads, defaults = [], []
    for workload in plan.space.workloads():
        default = default_of(held, workload)
        if default is None:
            continue
        defaults.append(default)
        finals = finalist_timings_of(held, workload)
        shown = in_turns(default, finals)
        baseline = baseline_of(shown, environment.device)
        # The default competes: where nothing beats it, it is the winner.
        evaluations = [(None, default), *by_workload.get(workload.key, [])]
        measured = candidates(evaluations, finals, shown)
        workloads.append(
            WorkloadResult(
                workload=workload,
                default=shown,
                baseline=baseline,
                measured=tuple(measured),
                front=front(measured),
                winners=winners(measured, baseline),
                strict_winners=winners(strict(measured, plan.limits), baseline),
                finals=finals,
            )
        )
    failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    return Results(
        study.study_name,
        plan,
        environment,
        trials,
        tuple(defaults),
        len(failed),
        tuple(workloads),
        anchors_of(held),
        tuple(earlier),
    )


def as_table(results: Results) -> pd.DataFrame:
    """Return one row a trial, defaults first (their `trial` is missing).

    Columns and their types are those of `COLUMNS`, whatever was measured. Behind them come stages
    that another version of this program timed, where there are any.
    """
    marks = DriftMarks(results.anchors, results.drifts)
    rows = [_row(None, default) | _measured_in(results, 1) for default in results.defaults]
    for trial in results.trials:
        drift = marks.at(trial.number, trial.measured_on)
        rows.append(
            _row(trial.number, trial.evaluation)
            | _measured_in(results, trial.environment)
            | {
                "drift": None if drift is None else drift.ratio,
                "measured_on": trial.measured_on or None,
                "environment": trial.environment,
            }
        )
    others = dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)
    return pd.DataFrame(rows, columns=[*COLUMNS, *others]).astype(COLUMNS)


def _measured_in(results: Results, number: int) -> dict[str, object]:
    """Return where the rows of an environment were measured; numbers begin at 1."""
    known = dict(enumerate((*results.earlier_environments, results.environment), 1))
    row: dict[str, object] = {"study": results.study_name}
    if number in known:  # else the storage was written by others
        row |= {"device": known[number].device.name, "torch": known[number].device.torch}
    return row


def _row(number: int | None, evaluation: Evaluation) -> dict[str, object]:
    configuration, measured = evaluation.configuration, evaluation.measurements
    row: dict[str, object] = {
        "trial": number,
        **configuration.workload.model_dump(mode="json"),
        **configuration.variant.model_dump(mode="json"),
        "outcome": evaluation.outcome.value,
        "reason": evaluation.reason,
    }
    if measured is not None:
        latency, memory = measured.latency, measured.memory
        sampled = latency.gpu or latency.host
        row |= {
            "latency_ms": latency.latency_ms,
            "latency_low_ms": latency.low_ms,
            "latency_high_ms": latency.high_ms,
            "bound": latency.bound,
            "gpu_ms": None if latency.gpu is None else latency.gpu.value,
            "host_ms": latency.host.value,
            "held": latency.held,
            "samples": sampled.count,
            "stopped": sampled.stopped,
            "host_speed": latency.host_speed,
            "first_step_ms": latency.first_step_ms,
            "new_length_ms": latency.new_length_ms,
            **memory.model_dump(),
            "relative_error": measured.relative_error,
            **_of_device(measured),
            "backend_ran": measured.backend_ran,
        }
    return row | {f"{STAGE}{stage}": spent for stage, spent in evaluation.seconds.items()}


def _of_device(measured: Measurements) -> dict[str, object]:
    roofline, conditions = measured.roofline, measured.conditions
    row: dict[str, object] = {}
    if roofline is not None:
        row |= {
            "roofline_ms": roofline.latency_ms,
            "roofline_share": roofline.latency_share,
            "roofline_mib": roofline.memory_mib,
        }
    if conditions is not None:
        low, high = conditions.sm_mhz or (None, None)
        row |= {
            "sm_mhz_low": low,
            "sm_mhz_high": high,
            "temperature_c": conditions.temperature_c,
            "clock_limits": " ".join(conditions.limits),
            "bursts_discarded": conditions.discarded,
        }
    return row
