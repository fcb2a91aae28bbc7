"""The trials of a study: asked for, told, read back, and given up when their process died.

COMPLETE means measured, accurate and usable. Everything else that happened to a configuration is
PRUNED without values, with outcome, reason and numbers in the trial's attributes: samplers learn
from it (they forget FAIL, and walk into the same wall again), and no list of best trials holds
it. FAIL is left for trials whose process died.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from objectives.schema.evaluation import Evaluation, Outcome
from studies.space.space import SpaceExhausted
from studies.storage import heartbeat
from studies.storage.optuna_internals import live_trial, stored_state, trial_id_of
from studies.storage.owner import host_elsewhere, is_dead, this_process
from studies.study.attributes import (
    ABANDONED,
    ENVIRONMENT_NUMBER,
    EVALUATION,
    LATENCY,
    MEASURED_ON,
    MEMORY,
    OUTCOME,
    OWNER,
    REASON,
    RELATIVE_ERROR,
    StudyError,
    read_stored,
)
from studies.study.baseline import WorkloadBaseline, default_of, objective_baseline
from studies.study.plan import environment_of, plan_of


@dataclass(frozen=True, slots=True)
class FinishedTrial:
    """A trial that was measured and told: COMPLETE or PRUNED."""

    number: int
    evaluation: Evaluation
    environment: int = 1  # in which of the study's it was measured
    measured_on: str = ""  # host and device


def ask(study: optuna.Study, measured_on: str = "", environment: int = 1) -> Trial:
    """Ask the study's sampler for a trial and store who is measuring it, on and in what.

    Raises:
        SpaceExhausted: Everything has been tried.
    """
    trial = study.ask()
    heartbeat.begin(study, trial)
    trial.set_user_attr(OWNER, this_process().model_dump())
    if measured_on:
        trial.set_user_attr(MEASURED_ON, measured_on)
    if environment > 1:
        trial.set_user_attr(ENVIRONMENT_NUMBER, environment)
    try:
        proposed = trial.relative_params
    except SpaceExhausted:
        abandon(study, trial, "nothing is left to try")
        raise
    for name in proposed:
        assert trial.relative_search_space is not None
        distribution = trial.relative_search_space[name]
        assert isinstance(distribution, CategoricalDistribution)
        trial.suggest_categorical(name, distribution.choices)
    return trial


def tell(
    study: optuna.Study, trial: Trial, evaluation: Evaluation, baseline: WorkloadBaseline
) -> None:
    """Store an evaluation and finish its trial; `baseline` is what its objectives are divided by.

    The evaluation is written first, and alone holds everything: a process that dies between two
    writes loses nothing. The scalars beside it are for the dashboard's columns.

    Raises:
        UpdateFinishedTrialError: Others finished it.
    """
    trial.set_user_attr(EVALUATION, evaluation.model_dump(mode="json"))
    trial.set_user_attr(OUTCOME, evaluation.outcome.value)
    if evaluation.reason:
        trial.set_user_attr(REASON, evaluation.reason)
    measured = evaluation.measurements
    if measured is not None:
        error = measured.relative_error
        trial.set_user_attr(LATENCY, measured.latency.latency_ms)
        trial.set_user_attr(MEMORY, measured.memory.peak_mib)
        trial.set_user_attr(RELATIVE_ERROR, error if math.isfinite(error) else "Infinity")
    if measured is not None and evaluation.outcome is Outcome.MEASURED:
        memory = measured.memory.peak_mib / baseline.peak_memory_mib
        latency = measured.latency.latency_ms / baseline.latency_ms
        _finish(study, trial, TrialState.COMPLETE, [memory, latency])
    else:
        _finish(study, trial, TrialState.PRUNED)


def _finish(
    study: optuna.Study, trial: Trial, state: TrialState, values: list[float] | None = None
) -> None:
    """Set the state of a trial; UpdateFinishedTrialError where others did, at whatever moment."""
    try:
        study.tell(trial, values, state)
    except ValueError:  # what Optuna raises where it looks before it writes
        if not stored_state(study, trial).is_finished():
            raise
        raise UpdateFinishedTrialError(f"trial {trial.number} is finished") from None


def finished_trials(study: optuna.Study) -> Iterator[FinishedTrial]:
    """Yield every finished trial, in order; abandoned ones are left out."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        mark = trial.user_attrs.get(ENVIRONMENT_NUMBER, 1)
        on = trial.user_attrs.get(MEASURED_ON)
        yield FinishedTrial(
            trial.number,
            evaluation_of(trial),
            mark if isinstance(mark, int) else 1,
            on if isinstance(on, str) else "",
        )


def evaluation_of(trial: FrozenTrial) -> Evaluation:
    """Return the evaluation of a finished trial.

    Raises:
        StudyError: It has none that can be read.
    """
    return read_stored(Evaluation, trial.user_attrs, EVALUATION, f"trial {trial.number}")


def recover(
    study: optuna.Study, running: Sequence[FrozenTrial], *, take_over: bool = False
) -> int:
    """Settle those `running` trials that a dead process left; those of a live one are left alone.

    A trial whose evaluation was stored is told; any other is abandoned and may be proposed
    again. Returns how many were abandoned. Call it under the study lock: a trial without an
    owner is one whose process died while it asked. With `take_over`, other hosts count as dead.

    Raises:
        StudyError: Another host measures, and the storage takes no heartbeats to tell if it lives.
    """
    abandoned = 0
    silent = heartbeat.silent_trials(study) if running else frozenset()
    if not take_over and not heartbeat.are_sent(study):
        _refuse_other_hosts(study, running)
    for trial in running:
        owner = trial.user_attrs.get(OWNER)
        given_up = take_over and host_elsewhere(owner) is not None
        if not given_up and trial_id_of(trial) not in silent and not is_dead(owner):
            continue
        live = live_trial(study, trial)
        evaluation = evaluation_of(trial) if EVALUATION in trial.user_attrs else None
        default = evaluation and default_of(study, evaluation.configuration.workload)
        with suppress(UpdateFinishedTrialError):  # it was only paused, and tells at this moment
            if evaluation is not None and default is not None:
                device = environment_of(study).device
                tell(study, live, evaluation, objective_baseline(plan_of(study), default, device))
            else:
                abandon(study, live, "its process died")
                abandoned += 1
    return abandoned


def _refuse_other_hosts(study: optuna.Study, running: Sequence[FrozenTrial]) -> None:
    for trial in running:
        host = host_elsewhere(trial.user_attrs.get(OWNER))
        if host is not None:
            raise StudyError(
                f"study {study.study_name} is measured on another host, {host} (trial "
                f"{trial.number}, begun {trial.datetime_start:%Y-%m-%d %H:%M}), and an SQLite "
                "file serves one: several need PostgreSQL. If what ran there is gone for good, "
                "--take-over abandons its trials"
            )


def abandon(study: optuna.Study, trial: Trial, reason: str) -> None:
    """Tell that a trial was given up; its configuration may be proposed again.

    Whoever measures it may live after all and tell at this moment. Neither writes what the other
    does, and the state alone says which of the two it was.

    Raises:
        UpdateFinishedTrialError: Others finished it.
    """
    trial.set_user_attr(ABANDONED, reason)
    _finish(study, trial, TrialState.FAIL)
