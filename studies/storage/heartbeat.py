"""Heartbeats of running trials, for processes that cannot see whether each other live.

On one host the operating system knows. Between hosts the database does: who measures a trial says
so every so often, on the database's clock, through Optuna's heartbeats, which Optuna itself keeps
in `Study.optimize` alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import optuna
from optuna.storages import BaseStorage
from optuna.trial import Trial

from studies.storage.database import STORAGE_FAILURES
from studies.storage.optuna_internals import (
    BaseHeartbeat,
    stale_trial_ids,
    storage_of,
    trial_id_of,
)


@contextmanager
def sent(study: optuna.Study, trial: Trial) -> Iterator[None]:
    """Send heartbeats of a trial inside the block, where the storage takes them."""
    storage, trial_id = storage_of(study), trial_id_of(trial)
    interval_s = _interval_s(storage)
    if interval_s is None:
        yield
        return
    assert isinstance(storage, BaseHeartbeat)
    heartbeats, over = storage, threading.Event()

    def keep() -> None:
        while not over.wait(interval_s):
            # A database that is away for less than the grace period does no harm.
            with suppress(*STORAGE_FAILURES):
                heartbeats.record_heartbeat(trial_id)

    thread = threading.Thread(target=keep, name=f"heartbeats of trial {trial_id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def are_sent(study: optuna.Study) -> bool:
    """Tell whether the study's storage takes heartbeats: several hosts may write into it."""
    return _interval_s(storage_of(study)) is not None


def begin(study: optuna.Study, trial: Trial) -> None:
    """Send the first heartbeat of a trial."""
    storage = storage_of(study)
    if isinstance(storage, BaseHeartbeat) and _interval_s(storage) is not None:
        storage.record_heartbeat(trial_id_of(trial))


def silent_trials(study: optuna.Study) -> frozenset[int]:
    """Return the ids of running trials that sent no heartbeat for the grace period."""
    storage = storage_of(study)
    if _interval_s(storage) is None:
        return frozenset()
    assert isinstance(storage, BaseHeartbeat)
    return frozenset(stale_trial_ids(study, storage))


def _interval_s(storage: BaseStorage) -> int | None:
    return storage.get_heartbeat_interval() if isinstance(storage, BaseHeartbeat) else None
