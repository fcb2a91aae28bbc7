"""Studies in a storage: opened, listed, created and loaded, and checked when they are loaded."""

from __future__ import annotations

import warnings

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from sqlalchemy.exc import SQLAlchemyError

from objectives.schema.environment import Environment
from objectives.schema.errors import one_line
from studies.storage.database import (
    CorruptStudyError,
    SchemaError,
    open_database,
    translate_corruption,
)
from studies.storage.lock import StudyLock
from studies.storage.optuna_internals import study_id_of
from studies.storage.url import DatabaseUrlError, shown, without_passwords
from studies.study.attributes import ENVIRONMENT, PLAN, StudyError
from studies.study.plan import Plan, objective_names, plan_of
from studies.study.validation import check_study

DIRECTIONS = (StudyDirection.MINIMIZE, StudyDirection.MINIMIZE)


def open_storage(url: str, *, create: bool = True) -> BaseStorage:
    """Open an Optuna storage; one that is not there is made, unless `create` is false.

    Raises:
        DatabaseUrlError: It is an address of no database that a study can be kept in.
        StudyError: It cannot be opened or written, or is not there.
    """
    try:
        return open_database(url, create=create)
    except DatabaseUrlError:
        raise
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
        with translate_corruption():
            studies = sorted(storage.get_all_studies(), key=study_id_of)
    except CorruptStudyError as error:
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
        with translate_corruption():
            trials = study.get_trials(deepcopy=False)
            study.metric_names  # noqa: B018 (read to see whether it can be)
        if tuple(study.directions) != DIRECTIONS:
            got = ", ".join(direction.name for direction in study.directions)
            raise CorruptStudyError(f"it must minimise two values, got {got}")
        check_study(study, plan_of(study).space, trials)
    except CorruptStudyError as error:
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
    return study if StudyLock(study).do(lambda: _write(study, plan, environment)) else None


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
