"""Databases as a run uses them: fast where they may be, watched, and failing in one line."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

LOCK_TIMEOUT_S = 60.0  # that another process may hold an SQLite database
# What reading raises that is not as Optuna wrote it.
_GARBLED = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


class StorageLostError(Exception):
    """The database file is not there any more."""


class GarbledError(Exception):
    """What is stored is not as it was written."""


STORAGE_FAILURES = (SQLAlchemyError, StorageInternalError, StorageLostError)


def failure_text(error: BaseException) -> str:
    """Return what one of `STORAGE_FAILURES` says, in one line."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    said = error.orig if isinstance(error, DBAPIError) and error.orig else error
    lines = str(said).strip().splitlines()
    return lines[0] if lines else type(said).__name__


def open_database(url: str) -> BaseStorage:
    """Open an Optuna storage.

    Raises:
        SQLAlchemyError, ValueError, OSError, ImportError: It cannot be opened or written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not url.startswith("sqlite"):
        return optuna.storages.get_storage(url)
    storage = _created(url, {"connect_args": {"timeout": LOCK_TIMEOUT_S}})
    _make_sqlite_fast(storage.engine)
    path = storage.engine.url.database
    if path and Path(path).is_file():
        _watch(storage.engine, Path(path))
    # Wrapped once: each study that is loaded from it then shares what was read.
    return optuna.storages.get_storage(storage)


def _created(url: str, engine_kwargs: dict[str, Any]) -> RDBStorage:
    """Open a database, also where other processes create its tables at this moment."""
    for pause_s in (0.1, 0.5, 2.0):
        try:
            return RDBStorage(url, engine_kwargs=engine_kwargs)
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            if "already exists" not in str(error) and "UNIQUE" not in str(error).upper():
                raise
        time.sleep(pause_s)
    return RDBStorage(url, engine_kwargs=engine_kwargs)


def engine_of(storage: BaseStorage) -> sqlalchemy.Engine | None:
    """Return the database behind a storage; None for one in memory."""
    engine = getattr(getattr(storage, "_backend", storage), "engine", None)
    return engine if isinstance(engine, sqlalchemy.Engine) else None


@contextmanager
def as_it_was_written() -> Iterator[None]:
    """Tell what Optuna cannot read back from failures of the storage.

    Raises:
        GarbledError: Somebody else wrote it.
    """
    try:
        yield
    except _GARBLED as error:
        if isinstance(error, STORAGE_FAILURES):
            raise
        lines = f"{type(error).__name__}: {error}".splitlines()
        raise GarbledError(lines[0][:300]) from None


def _make_sqlite_fast(engine: sqlalchemy.Engine) -> None:
    """Write ahead, and do not wait for the disk at each of a trial's dozen writes.

    A killed process loses nothing that was committed; a machine that loses power may lose the
    last trials, never the file.
    """

    def set_pragmas(connection: Any, record: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    sqlalchemy.event.listen(engine, "connect", set_pragmas)
    engine.dispose()


def _watch(engine: sqlalchemy.Engine, path: Path) -> None:
    """Notice, before each transaction, when the file was removed or replaced.

    SQLite goes on writing to a file without a name, and all of it is lost with the process. The
    connection still reads it, so it is saved beside where it was.
    """
    path = path.absolute()
    opened = path.stat()

    def check(connection: sqlalchemy.Connection) -> None:
        try:
            there = os.path.samestat(path.stat(), opened)
        except OSError:
            there = False
        if not there:
            database: object = connection.connection.dbapi_connection
            saved = _save(database, path) if isinstance(database, sqlite3.Connection) else None
            raise StorageLostError(
                f"{path} was removed or replaced while it was in use"
                + (f"; what it held is saved as {saved}" if saved else "")
            )

    sqlalchemy.event.listen(engine, "begin", check)


def _save(database: sqlite3.Connection, path: Path) -> Path | None:
    taken = (path.with_name(f"{path.stem}.saved-{n}{path.suffix}") for n in range(1, 1000))
    copy = next(name for name in taken if not name.exists())
    try:
        database.execute("VACUUM INTO ?", (str(copy),))
    except sqlite3.Error:
        return None
    return copy
