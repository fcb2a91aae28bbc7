"""Leases on running trials, for processes that cannot see whether each other live.

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
def kept(study: optuna.Study, trial: Trial) -> Iterator[None]:
    """Keep the lease on a trial inside the block, where the storage knows of leases."""
    storage, trial_id = storage_of(study), trial_id_of(trial)
    interval_s = _interval_s(storage)
    if interval_s is None:
        yield
        return
    assert isinstance(storage, BaseHeartbeat)
    heartbeats, over = storage, threading.Event()

    def keep() -> None:
        while not over.wait(interval_s):
            # A database that is away for a moment does not end the lease; for longer, it does.
            with suppress(*STORAGE_FAILURES):
                heartbeats.record_heartbeat(trial_id)

    thread = threading.Thread(target=keep, name=f"lease on trial {trial_id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def are_kept(study: optuna.Study) -> bool:
    """Tell whether the study's storage knows of leases."""
    return _interval_s(storage_of(study)) is not None


def begin(study: optuna.Study, trial: Trial) -> None:
    """Begin the lease on a trial."""
    storage = storage_of(study)
    if isinstance(storage, BaseHeartbeat) and _interval_s(storage) is not None:
        storage.record_heartbeat(trial_id_of(trial))


def expired(study: optuna.Study) -> frozenset[int]:
    """Return the ids of running trials whose lease has ended."""
    storage = storage_of(study)
    if _interval_s(storage) is None:
        return frozenset()
    assert isinstance(storage, BaseHeartbeat)
    return frozenset(stale_trial_ids(study, storage))


def _interval_s(storage: BaseStorage) -> int | None:
    return storage.get_heartbeat_interval() if isinstance(storage, BaseHeartbeat) else None
