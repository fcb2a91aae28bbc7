"""The Optuna study as the only record: open, resume, tell, read back.

COMPLETE means measured, accurate and usable. Everything else that happened to a configuration is
PRUNED without values, with outcome, reason and numbers in the trial's attributes: samplers learn
from it (they forget FAIL, and walk into the same wall again), and no list of best trials holds
it. FAIL is left for trials whose process died.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.exc import SQLAlchemyError

from objectives.roofline.bound import bound
from objectives.schema.environment import Environment
from objectives.schema.errors import one_line
from objectives.schema.evaluation import Evaluation, Outcome
from objectives.schema.limits import Limits
from studies.space.space import SearchSpace, SpaceExhausted
from studies.storage import heartbeat as lease
from studies.storage.database import GarbledError, SchemaError, as_it_was_written, open_database
from studies.storage.lock import ClaimLock
from studies.storage.owner import host_elsewhere, is_dead, this_process
from studies.storage.url import DatabaseUrlError, shown, without_passwords
from studies.study.snapshot import Held
from studies.study.validation import check_study
from variants.device import Device
from variants.plugins import Plugin, missing_plugins
from variants.workload import Workload

PLAN, ENVIRONMENT, DEFAULT = "goldilocks:plan", "goldilocks:environment", "goldilocks:default:"
DIRECTIONS = (StudyDirection.MINIMIZE, StudyDirection.MINIMIZE)
EVALUATION, OWNER, MEASURED_ON = "evaluation", "owner", "measured_on"
ABANDONED = "abandoned"  # why a trial was given up; means something in state FAIL alone
MOST_SEED = 2**32 - 1  # that NumPy takes
RAW_OBJECTIVES = ("peak_memory_mib", "latency_ms")
RATIO_OBJECTIVES = ("peak_memory_vs_default", "latency_vs_default")


Stored = TypeVar("Stored", bound=BaseModel)


class StudyError(ValueError):
    """A study that cannot be used as asked; the message is one line for the user."""


class Plan(BaseModel):
    """What a study searches and how; fixed when it is created."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    space: SearchSpace
    limits: Limits
    sampler: str
    seed: int = Field(ge=0, le=MOST_SEED)
    plugins: tuple[Plugin, ...] = ()  # whose names the space may hold; never loaded from here


@dataclass(frozen=True, slots=True)
class Told:
    """One finished trial."""

    number: int
    evaluation: Evaluation
    environment: int = 1  # in which of the study's it was measured
    measured_on: str = ""  # host and device


def open_storage(url: str, *, create: bool = True) -> BaseStorage:
    """Open an Optuna storage; one that is not there is made, unless `create` is false.

    Raises:
        StudyError: It cannot be opened or written, or is not there.
    """
    try:
        return open_database(url, create=create)
    except DatabaseUrlError as error:
        raise StudyError(str(error)) from None
    except SchemaError as error:
        raise StudyError(
            f"storage must be a database of this version of Optuna, got {shown(url)}: {error}"
        ) from None
    except (SQLAlchemyError, ValueError, OSError, ImportError) as error:
        raise StudyError(
            f"storage must be a database that can be written, got {shown(url)}: "
            f"{without_passwords(one_line(error))}"
        ) from None


def study_names(storage: BaseStorage) -> list[str]:
    """Return the names of this product's studies, oldest first.

    Raises:
        StudyError: The storage cannot be read.
    """
    try:
        with as_it_was_written():
            studies = sorted(storage.get_all_studies(), key=lambda study: study._study_id)
    except GarbledError as error:
        raise StudyError(f"the storage cannot be read: {error}") from None
    return [study.study_name for study in studies if PLAN in study.user_attrs]


def load_study(storage: BaseStorage, name: str | None) -> optuna.Study:
    """Return the study of that name, or the newest one.

    Raises:
        StudyError: There is none, or it cannot be read.
    """
    names = study_names(storage)
    if not names:
        raise StudyError("the storage holds no study; `python -m search run` makes one")
    if name is None:
        name = names[-1]
    if name not in names:
        raise StudyError(f"study must be one of {', '.join(names)}; got {name}")
    study = optuna.load_study(study_name=name, storage=storage)
    try:
        with as_it_was_written():
            trials = study.get_trials(deepcopy=False)
            study.metric_names  # noqa: B018 (read to see whether it can be)
        if tuple(study.directions) != DIRECTIONS:
            got = ", ".join(direction.name for direction in study.directions)
            raise GarbledError(f"it must minimise two values, got {got}")
        check_study(study, plan_of(study).space, trials)
    except GarbledError as error:
        raise StudyError(f"study {name} cannot be read: {error}") from None
    return study


def create_study(
    storage: BaseStorage, name: str, plan: Plan, environment: Environment
) -> optuna.Study | None:
    """Create a study with named objectives, both minimised; None if another process did so first.

    Its plan is written last, and makes it a study: one whose creation was cut short before has no
    trials, and is taken up.
    """
    study = optuna.create_study(
        study_name=name, storage=storage, directions=DIRECTIONS, load_if_exists=True
    )
    return study if ClaimLock(study).do(lambda: _write(study, plan, environment)) else None


def _write(study: optuna.Study, plan: Plan, environment: Environment) -> bool:
    """Make it a study. Tells whether nobody did before."""
    if PLAN in study.user_attrs:
        return False
    with warnings.catch_warnings():
        # Experimental for years, and the only way to name objectives in the dashboard.
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(objective_names(plan.space)))
    study.set_user_attr(ENVIRONMENT, environment.model_dump(mode="json"))
    study.set_user_attr(PLAN, plan.model_dump(mode="json"))
    return True


def plan_of(study: Held) -> Plan:
    """Return what the study searches.

    Raises:
        StudyError: It was written by an incompatible version, or with a plugin that is not loaded
            or has changed.
    """
    of = f"study {study.study_name}"
    stored = study.user_attrs.get(PLAN)
    named = stored.get("plugins") if isinstance(stored, dict) else None
    try:
        plugins = tuple(Plugin.model_validate(plugin) for plugin in named or ())
    except (ValidationError, TypeError) as error:
        raise StudyError(f"{of} cannot be read: {PLAN}: {one_line(error)}") from None
    if missing := missing_plugins(plugins):
        raise StudyError(
            f"{of} was made with --plugin {', '.join(missing)}; name the same file again"
        )
    return _read(Plan, study.user_attrs, PLAN, of)


def environments_of(study: Held) -> list[Environment]:
    """Return the environments that the study was measured in, the present one last.

    Raises:
        StudyError: They cannot be read.
    """
    attributes, of = study.user_attrs, f"study {study.study_name}"
    later = sum(key.startswith(f"{ENVIRONMENT}:") for key in attributes)
    keys = [ENVIRONMENT, *(f"{ENVIRONMENT}:{number}" for number in range(2, 2 + later))]
    return [_read(Environment, attributes, key, of) for key in keys]


def number_of(known: Sequence[Environment], environment: Environment) -> int | None:
    """Return the number of an environment in a study that was measured in those, from 1."""
    same = (n for n, there in enumerate(known, 1) if not there.differences(environment))
    return next(same, None)


def environment_of(study: Held) -> Environment:
    """Return the present environment of the study; raises as `environments_of` does."""
    return environments_of(study)[-1]


def add_environment(study: optuna.Study, environment: Environment) -> None:
    """Continue a study in another environment; its trials are marked from now on."""
    number = len(environments_of(study)) + 1
    study.set_user_attr(f"{ENVIRONMENT}:{number}", environment.model_dump(mode="json"))


def _read(model: type[Stored], attributes: Mapping[str, Any], key: str, of: str) -> Stored:
    """Read what is stored as an attribute of a study or a trial.

    Raises:
        StudyError: It is not there, or not as it was written.
    """
    try:
        return model.model_validate(attributes[key])
    except KeyError:
        raise StudyError(f"{of} cannot be read: it has no {key}") from None
    except (ValueError, RecursionError) as error:  # lone surrogates, too
        raise StudyError(f"{of} cannot be read: {key}: {one_line(error)}") from None


def objective_names(space: SearchSpace) -> tuple[str, str]:
    """Return what is told to Optuna, memory first.

    Raw values would only crown the smallest of several workloads, so there the default's is
    the unit.
    """
    return RAW_OBJECTIVES if len(space.workloads()) == 1 else RATIO_OBJECTIVES


def recover(
    study: optuna.Study, running: Sequence[FrozenTrial], *, take_over: bool = False
) -> int:
    """Settle those `running` trials that a dead process left; those of a live one are left alone.

    A trial whose evaluation was stored is told; any other is abandoned and may be proposed
    again. Returns how many were abandoned. Call it under the claim lock: a trial without an
    owner is one whose process died while it asked. With `take_over`, other hosts count as dead.

    Raises:
        StudyError: Another host measures, and the storage has no leases to tell that it lives.
    """
    abandoned = 0
    silent = lease.expired(study) if running else frozenset()
    if not take_over and not lease.are_kept(study):
        _refuse_other_hosts(study, running)
    for trial in running:
        owner = trial.user_attrs.get(OWNER)
        given_up = take_over and host_elsewhere(owner) is not None
        if not given_up and trial._trial_id not in silent and not is_dead(owner):
            continue
        live = Trial(study, trial._trial_id)
        evaluation = evaluation_of(trial) if EVALUATION in trial.user_attrs else None
        default = evaluation and default_of(study, evaluation.configuration.workload)
        with suppress(UpdateFinishedTrialError):  # it was only paused, and tells at this moment
            if evaluation is not None and default is not None:
                device = environment_of(study).device
                tell(study, live, evaluation, objective_unit(plan_of(study), default, device))
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


def tell(study: optuna.Study, trial: Trial, evaluation: Evaluation, unit: Unit) -> None:
    """Store an evaluation and finish its trial; `unit` is what its objectives are divided by.

    The evaluation is written first, and alone holds everything: a process that dies between two
    writes loses nothing. The scalars beside it are for the dashboard's columns.

    Raises:
        UpdateFinishedTrialError: Others finished it.
    """
    trial.set_user_attr(EVALUATION, evaluation.model_dump(mode="json"))
    trial.set_user_attr("outcome", evaluation.outcome.value)
    if evaluation.reason:
        trial.set_user_attr("reason", evaluation.reason)
    measured = evaluation.measurements
    if measured is not None:
        error = measured.relative_error
        trial.set_user_attr("latency_ms", measured.latency.latency_ms)
        trial.set_user_attr("peak_memory_mib", measured.memory.peak_mib)
        trial.set_user_attr("relative_error", error if math.isfinite(error) else "Infinity")
    if measured is not None and evaluation.outcome is Outcome.MEASURED:
        memory = measured.memory.peak_mib / unit.peak_memory_mib
        latency = measured.latency.latency_ms / unit.latency_ms
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
        if not study._storage.get_trial(trial._trial_id).state.is_finished():
            raise
        raise UpdateFinishedTrialError(f"trial {trial.number} is finished") from None


@dataclass(frozen=True, slots=True)
class Unit:
    """What a workload's numbers are divided by."""

    peak_memory_mib: float
    latency_ms: float
    measured: bool  # False: the default failed, and its roofline stands in


def objective_unit(plan: Plan, default: Evaluation, device: Device) -> Unit:
    """Return what a workload's objectives are divided by; see `objective_names`."""
    if objective_names(plan.space) == RAW_OBJECTIVES:
        return Unit(1.0, 1.0, True)
    return unit_of(default, device)


def unit_of(default: Evaluation, device: Device) -> Unit:
    """Return the default's numbers, or its roofline where it has none."""
    if default.measurements is not None:
        return Unit(
            default.measurements.memory.peak_mib, default.measurements.latency.latency_ms, True
        )
    least = bound(default.configuration, device)
    return Unit(least.memory_mib, least.latency_ms, False)


def set_default(study: optuna.Study, evaluation: Evaluation) -> None:
    """Store the evaluation of a workload's default."""
    key = DEFAULT + evaluation.configuration.workload.key
    study.set_user_attr(key, evaluation.model_dump(mode="json"))


def default_of(study: Held, workload: Workload) -> Evaluation | None:
    """Return the evaluation of the workload's default, if it was measured."""
    key, attributes = DEFAULT + workload.key, study.user_attrs
    if key not in attributes:
        return None
    return _read(Evaluation, attributes, key, f"study {study.study_name}")


def told(study: optuna.Study) -> Iterator[Told]:
    """Yield every finished trial, in order; abandoned ones are left out."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        mark = trial.user_attrs.get("environment", 1)
        on = trial.user_attrs.get(MEASURED_ON)
        yield Told(
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
    return _read(Evaluation, trial.user_attrs, EVALUATION, f"trial {trial.number}")


def ask(study: optuna.Study, measured_on: str = "", environment: int = 1) -> Trial:
    """Ask the study's sampler for a trial and store who is measuring it, on and in what.

    Raises:
        SpaceExhausted: Everything has been tried.
    """
    trial = study.ask()
    lease.begin(study._storage, trial._trial_id)
    trial.set_user_attr(OWNER, this_process().model_dump())
    if measured_on:
        trial.set_user_attr(MEASURED_ON, measured_on)
    if environment > 1:
        trial.set_user_attr("environment", environment)
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
