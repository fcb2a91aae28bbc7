"""The Optuna study as the only record: open, resume, tell, read back.

COMPLETE means measured, accurate and usable. Everything else that happened to a configuration is
PRUNED without values, with outcome, reason and numbers in the trial's attributes: samplers learn
from it (they forget FAIL, and walk into the same wall again), and no list of best trials holds
it. FAIL is left for trials whose process died.
"""

from __future__ import annotations

import dataclasses
import math
import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
import psutil
import sqlalchemy
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import BaseModel, ConfigDict, ValidationError

from objectives.environment import Environment
from objectives.evaluation import Evaluation, Outcome
from objectives.limits import Limits
from objectives.roofline import Peaks, bound
from studies.finalists import Finals
from studies.space import SearchSpace, SpaceExhausted
from variants.device import Device
from variants.plugins import Plugin, missing_plugins
from variants.workload import Workload

PLAN, ENVIRONMENT, DEFAULT = "goldilocks:plan", "goldilocks:environment", "goldilocks:default:"
FINALS, PEAKS = "goldilocks:finals:", "goldilocks:peaks"
EVALUATION, OWNER = "evaluation", "owner"
RAW_OBJECTIVES = ("peak_memory_mib", "latency_ms")
RATIO_OBJECTIVES = ("peak_memory_vs_default", "latency_vs_default")


class StudyError(ValueError):
    """A study that cannot be used as asked; the message is one line for the user."""


class Plan(BaseModel):
    """What a study searches and how; fixed when it is created."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    space: SearchSpace
    limits: Limits
    sampler: str
    seed: int
    plugins: tuple[Plugin, ...] = ()  # whose names the space may hold; never loaded from here


@dataclass(frozen=True, slots=True)
class Told:
    """One finished trial."""

    number: int
    evaluation: Evaluation


def open_storage(url: str) -> BaseStorage:
    """Open an Optuna storage.

    Raises:
        StudyError: It cannot be opened or written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if not url.startswith("sqlite"):
            return optuna.storages.get_storage(url)
        storage = RDBStorage(
            url, engine_kwargs={"connect_args": {"timeout": 60}}, skip_compatibility_check=False
        )
        _make_sqlite_fast(storage)
    except (sqlalchemy.exc.SQLAlchemyError, ValueError, OSError, ImportError) as error:
        raise StudyError(
            f"storage must be a database that can be written, got {url}: {_one_line(error)}"
        ) from None
    return storage


def _make_sqlite_fast(storage: RDBStorage) -> None:
    """Write ahead, and do not wait for the disk at each of a trial's dozen writes.

    A killed process loses nothing that was committed; a machine that loses power may lose the
    last trials, never the file.
    """

    def set_pragmas(connection: Any, record: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    sqlalchemy.event.listen(storage.engine, "connect", set_pragmas)
    storage.engine.dispose()


def study_names(storage: BaseStorage) -> list[str]:
    """Return the names of this product's studies, oldest first."""
    studies = sorted(storage.get_all_studies(), key=lambda study: study._study_id)
    return [study.study_name for study in studies if PLAN in study.user_attrs]


def load_study(storage: BaseStorage, name: str | None) -> optuna.Study:
    """Return the study of that name, or the newest one.

    Raises:
        StudyError: There is none.
    """
    names = study_names(storage)
    if not names:
        raise StudyError("the storage holds no study; `python -m search run` makes one")
    if name is None:
        name = names[-1]
    if name not in names:
        raise StudyError(f"study must be one of {', '.join(names)}; got {name}")
    return optuna.load_study(study_name=name, storage=storage)


def create_study(
    storage: BaseStorage, name: str, plan: Plan, environment: Environment
) -> optuna.Study:
    """Create a study with named objectives, both minimised."""
    study = optuna.create_study(
        study_name=name, storage=storage, directions=["minimize", "minimize"]
    )
    with warnings.catch_warnings():
        # Experimental for years, and the only way to name objectives in the dashboard.
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(objective_names(plan.space)))
    study.set_user_attr(PLAN, plan.model_dump(mode="json"))
    study.set_user_attr(ENVIRONMENT, environment.model_dump(mode="json"))
    return study


def plan_of(study: optuna.Study) -> Plan:
    """Return what the study searches.

    Raises:
        StudyError: It was written by an incompatible version, or with a plugin that is not loaded
            or has changed.
    """
    try:
        plugins = tuple(map(Plugin.model_validate, study.user_attrs[PLAN].get("plugins", ())))
        if missing := missing_plugins(plugins):
            raise StudyError(
                f"study {study.study_name} was made with --plugin {', '.join(missing)}; name the "
                f"same file again"
            )
        return Plan.model_validate(study.user_attrs[PLAN])
    except ValidationError as error:
        raise StudyError(
            f"study {study.study_name} was written by another version: {_one_line(error)}"
        ) from None


def environment_of(study: optuna.Study) -> Environment:
    """Return the environment that the study was measured in."""
    return Environment.model_validate(study.user_attrs[ENVIRONMENT])


def objective_names(space: SearchSpace) -> tuple[str, str]:
    """Return what is told to Optuna, memory first.

    Raw values would only crown the smallest of several workloads, so there the default's is
    the unit.
    """
    return RAW_OBJECTIVES if len(space.workloads()) == 1 else RATIO_OBJECTIVES


def owner_of_this_process() -> dict[str, object]:
    """Return what identifies this process, also after its id is used again."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
    }


def _is_dead(owner: Mapping[str, Any]) -> bool:
    if owner.get("host") != socket.gethostname():
        return False  # it cannot be asked
    try:
        started = psutil.Process(int(owner["pid"])).create_time()
    except psutil.NoSuchProcess:
        return True
    return abs(started - float(owner["started"])) > 1.0


def recover(study: optuna.Study) -> int:
    """Settle the trials that a dead process left running; those of a live one are left alone.

    A trial whose evaluation was stored is told; any other is ABANDONED and may be proposed
    again. Returns how many were abandoned.
    """
    abandoned = 0
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get(OWNER)
        if owner is not None and not _is_dead(owner):
            continue
        live = Trial(study, trial._trial_id)
        stored = trial.user_attrs.get(EVALUATION)
        evaluation = None if stored is None else Evaluation.model_validate(stored)
        default = evaluation and default_of(study, evaluation.configuration.workload)
        if evaluation is not None and default is not None:
            device = environment_of(study).device
            tell(study, live, evaluation, objective_unit(plan_of(study), default, device))
        else:
            abandon(study, live, "its process died")
            abandoned += 1
    return abandoned


def abandon(study: optuna.Study, trial: Trial, reason: str) -> None:
    """Tell that a trial was given up; its configuration may be proposed again."""
    trial.set_user_attr("outcome", Outcome.ABANDONED.value)
    trial.set_user_attr("reason", reason)
    study.tell(trial, state=TrialState.FAIL)


def tell(study: optuna.Study, trial: Trial, evaluation: Evaluation, unit: Unit) -> None:
    """Store an evaluation and finish its trial; `unit` is what its objectives are divided by.

    The evaluation is written first, and alone holds everything: a process that dies between two
    writes loses nothing. The scalars beside it are for the dashboard's columns.
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
        study.tell(trial, values=[memory, measured.latency.latency_ms / unit.latency_ms])
    else:
        study.tell(trial, state=TrialState.PRUNED)


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


def default_of(study: optuna.Study, workload: Workload) -> Evaluation | None:
    """Return the evaluation of the workload's default, if it was measured."""
    stored = study.user_attrs.get(DEFAULT + workload.key)
    return None if stored is None else Evaluation.model_validate(stored)


def set_finals(study: optuna.Study, workload: Workload, finals: Finals) -> None:
    """Store the verdicts on a workload's finalists, in place of earlier ones."""
    study.set_user_attr(FINALS + workload.key, finals.model_dump(mode="json"))


def finals_of(study: optuna.Study, workload: Workload) -> Finals | None:
    """Return the verdicts on a workload's finalists, if they were timed again."""
    stored = study.user_attrs.get(FINALS + workload.key)
    return None if stored is None else Finals.model_validate(stored)


def set_peaks(study: optuna.Study, peaks: Peaks | None) -> None:
    """Store the rates of the study's roofline: every trial is placed under the same ones."""
    study.set_user_attr(PEAKS, None if peaks is None else dataclasses.asdict(peaks))


def has_peaks(study: optuna.Study) -> bool:
    """Tell whether measuring the rates of the study's roofline was tried."""
    return PEAKS in study.user_attrs


def peaks_of_study(study: optuna.Study) -> Peaks | None:
    """Return the rates that were measured for the study, if they were."""
    stored = study.user_attrs.get(PEAKS)
    return None if stored is None else Peaks(**stored)


def told(study: optuna.Study) -> Iterator[Told]:
    """Yield every finished trial, in order; abandoned ones are left out."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        yield Told(trial.number, evaluation_of(trial))


def evaluation_of(trial: FrozenTrial) -> Evaluation:
    """Return the evaluation of a finished trial."""
    return Evaluation.model_validate(trial.user_attrs[EVALUATION])


def ask(study: optuna.Study) -> Trial:
    """Ask the study's sampler for a trial and store who is measuring it.

    Raises:
        SpaceExhausted: Everything has been tried.
    """
    trial = study.ask()
    trial.set_user_attr(OWNER, owner_of_this_process())
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


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
