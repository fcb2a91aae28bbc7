"""Optuna's private names, all of them: its public interface has no way to do what these do.

`tests/studies/storage/test_optuna_internals.py` holds each against the Optuna that is installed.
"""

from __future__ import annotations

from typing import Any

import optuna
import sqlalchemy
from optuna.storages import BaseStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, Trial, TrialState

__all__ = ["FIXED_PARAMS", "BaseHeartbeat", "FrozenStudy"]

# Of a trial's system attributes: the parameters that it was enqueued with.
FIXED_PARAMS = "fixed_params"


def storage_of(study: optuna.Study) -> BaseStorage:
    """Return the storage that a study was loaded from."""
    return study._storage


def study_id_of(study: optuna.Study | FrozenStudy) -> int:
    """Return the number of a study in its storage; later studies have larger ones."""
    return study._study_id


def trial_id_of(trial: Trial | FrozenTrial) -> int:
    """Return the number of a trial in its storage: `number` counts within its study alone."""
    return trial._trial_id


def live_trial(study: optuna.Study, trial: FrozenTrial) -> Trial:
    """Return a trial that can be written to, of one that was read."""
    return Trial(study, trial._trial_id)


def stored_state(study: optuna.Study, trial: Trial) -> TrialState:
    """Read the state of a trial from the storage: other processes may have finished it."""
    return study._storage.get_trial(trial._trial_id).state


def stored_user_attributes(study: optuna.Study) -> dict[str, Any]:
    """Return what is stored beside the trials of a study, not to be changed.

    `Study.user_attrs` copies all of it each time.
    """
    return study._storage.get_study_user_attrs(study._study_id)


def stored_system_attributes(study: optuna.Study) -> dict[str, Any]:
    """Return what Optuna and its dashboard keep beside the trials of a study."""
    return study._storage.get_study_system_attrs(study._study_id)


def set_system_attribute(study: optuna.Study, trial: FrozenTrial, key: str, value: Any) -> None:
    """Store a system attribute of a trial that is being asked for."""
    study._storage.set_trial_system_attr(trial._trial_id, key, value)


def stale_trial_ids(study: optuna.Study, heartbeats: BaseHeartbeat) -> list[int]:
    """Return the ids of running trials whose last heartbeat is older than the grace period."""
    return heartbeats._get_stale_trial_ids(study._study_id)


def engine_of(storage: BaseStorage) -> sqlalchemy.Engine | None:
    """Return the database behind a storage, which may be wrapped in a cache; None in memory."""
    engine = getattr(getattr(storage, "_backend", storage), "engine", None)
    return engine if isinstance(engine, sqlalchemy.Engine) else None


def best_trials_of_dashboard() -> Any:
    """Return the module whose `get_pareto_front_trials` lists the dashboard's best trials."""
    from optuna_dashboard import _app  # takes seconds to import

    return _app
