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
from optuna.storages._heartbeat import BaseHeartbeat

from studies.storage.database import STORAGE_FAILURES


@contextmanager
def kept(storage: BaseStorage, trial_id: int) -> Iterator[None]:
    """Keep the lease on a trial inside the block, where the storage knows of leases."""
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
    return _interval_s(study._storage) is not None


def begin(storage: BaseStorage, trial_id: int) -> None:
    """Begin the lease on a trial."""
    if _interval_s(storage) is not None:
        assert isinstance(storage, BaseHeartbeat)
        storage.record_heartbeat(trial_id)


def expired(study: optuna.Study) -> frozenset[int]:
    """Return the ids of running trials whose lease has ended."""
    storage = study._storage
    if _interval_s(storage) is None:
        return frozenset()
    assert isinstance(storage, BaseHeartbeat)
    return frozenset(storage._get_stale_trial_ids(study._study_id))


def _interval_s(storage: BaseStorage) -> int | None:
    return storage.get_heartbeat_interval() if isinstance(storage, BaseHeartbeat) else None
