"""Databases as a run uses them: fast where they may be, watched, and failing in one line."""

from __future__ import annotations

import os
import re
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy
from alembic.util import CommandError
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

from studies.storage.url import (
    DatabaseUrlError,
    database_url,
    shown,
    sqlite_file,
    without_passwords,
)

T = TypeVar("T")
LOCK_TIMEOUT_S = 60.0  # that another process may hold an SQLite database, or create its tables
CREATION_PAUSE_S = 0.2  # between looks at whether it has created them
LOCK_PAUSE_S = 0.02  # between looks at whether it holds it, where SQLite does not wait
HEARTBEAT_S, GRACE_PERIOD_S = (
    20,
    60,
)  # between signs of life of a trial; after which silence is death
# A thread for each device asks and tells, another sends its heartbeats; most wait for their GPU.
# PostgreSQL serves 100 connections if nothing else is configured.
_POOL = {"pool_size": 2, "max_overflow": 8, "pool_pre_ping": True}
# A server or a network that is gone is an error within the grace period, not a wait of hours.
_TCP = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_LIMITED = "goldilocks_limited"  # of a connection: whether its transaction has a time limit
_WRITES = re.compile(r"\s*(INSERT|UPDATE|DELETE)\b|.*\bFOR UPDATE\b", re.DOTALL)
MOST_CUTS = 5  # connections that are lost in one piece of work, before that is an error
# What reading raises that is not as Optuna wrote it.
_CORRUPT = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


class StorageLostError(Exception):
    """The database file was removed or replaced while it was in use."""


class CorruptStudyError(Exception):
    """What is stored of a study is not as this program or Optuna writes it."""


class SchemaError(ValueError):
    """The tables are not those of the Optuna that is installed; the message says what to do."""


STORAGE_FAILURES = (SQLAlchemyError, StorageInternalError, StorageLostError)


def failure_text(error: BaseException) -> str:
    """Return what one of `STORAGE_FAILURES` says, in one line."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    said = error.orig if isinstance(error, DBAPIError) and error.orig else error
    lines = without_passwords(str(said)).strip().splitlines()
    return lines[0] if lines else type(said).__name__


def is_disconnect(error: BaseException) -> bool:
    """Tell whether a connection was lost that had been made.

    The server ends a transaction in which this process was silent for the grace period, and may
    not get to say so: what it sent is gone where the connection is reset. A network that failed
    looks alike.
    """
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    return isinstance(error, DBAPIError) and error.connection_invalidated


def retry_on_disconnect(work: Callable[[], T]) -> T:
    """Do some work in the storage that may be done twice; again where it was cut off.

    Where the server is gone, so is the next connection, and that is an error.
    """
    for _ in range(MOST_CUTS):
        try:
            return work()
        except STORAGE_FAILURES as error:
            if not is_disconnect(error):
                raise
    return work()


def open_database(address: str, *, create: bool = True) -> BaseStorage:
    """Open an Optuna storage: an SQLite file on this host, or PostgreSQL for several.

    An SQLite file that is not there is made, unless `create` is false: who only reads leaves
    none behind.

    Raises:
        DatabaseUrlError: It is neither, its folder does not exist, or there is no such file.
        SchemaError: Another version of Optuna wrote it.
        SQLAlchemyError, ValueError, OSError, ImportError: It cannot be opened or written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = database_url(address)
    if url.get_backend_name() == "postgresql":
        return optuna.storages.get_storage(_postgresql(url))
    file = sqlite_file(url)
    if file is None:
        raise DatabaseUrlError(
            f"storage must be a file or a server, got {shown(address)}: a database in memory ends "
            "with the command"
        )
    if not file.parent.is_dir():
        raise DatabaseUrlError(
            f"storage must be a database in a folder that exists, got {shown(address)}"
        )
    if not create and not file.exists():
        raise DatabaseUrlError(
            f"storage must be a database that exists, got {shown(address)}: no such file; "
            "`python -m search run` makes one"
        )
    storage = _created(address, {"connect_args": {"timeout": LOCK_TIMEOUT_S}})
    _make_sqlite_fast(storage.engine)
    path = storage.engine.url.database
    if path and Path(path).is_file():
        _watch(storage.engine, Path(path))
    # Wrapped once: each study that is loaded from it then shares what was read.
    return optuna.storages.get_storage(storage)


def _postgresql(url: sqlalchemy.URL) -> RDBStorage:
    try:
        import psycopg  # noqa: F401 (an optional dependency, wanted by name alone below)
    except ImportError:
        raise ImportError("it needs psycopg: pip install '.[postgres]'") from None
    # `heartbeat` sends them where trials are measured; Optuna itself in `Study.optimize` alone.
    warnings.filterwarnings("ignore", "Heartbeat of storage is supposed", UserWarning)
    timeouts = {name: value for name, value in _TCP.items() if name not in url.query}
    storage = _created(
        url.render_as_string(hide_password=False),
        {**_POOL, "connect_args": timeouts},
        heartbeats=True,
    )
    _free_what_the_paused_hold(storage.engine)
    return storage


def _free_what_the_paused_hold(engine: sqlalchemy.Engine) -> None:
    """Have the server end a transaction that is silent for the grace period after it wrote.

    It may hold the row of the study, and a process that is stopped keeps its connection: nobody
    could ask again. Who only reads holds nothing, and may read a large study for minutes.
    """
    limit = f"SET LOCAL idle_in_transaction_session_timeout = {int(GRACE_PERIOD_S * 1000)}"

    def begin(connection: sqlalchemy.Connection) -> None:
        connection.info[_LIMITED] = False

    def set_limit(
        connection: sqlalchemy.Connection, cursor: Any, statement: str, *others: object
    ) -> None:
        if not connection.info.get(_LIMITED, True) and _WRITES.match(statement):
            cursor.execute(limit)
            connection.info[_LIMITED] = True

    sqlalchemy.event.listen(engine, "begin", begin)
    sqlalchemy.event.listen(engine, "before_cursor_execute", set_limit)


def _created(
    address: str, engine_kwargs: dict[str, Any], *, heartbeats: bool = False
) -> RDBStorage:
    """Open a database, also where other processes create its tables at this moment.

    On a busy disk that takes them many seconds.
    """

    def create() -> RDBStorage:
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            try:
                return RDBStorage(
                    address,
                    engine_kwargs=engine_kwargs,
                    heartbeat_interval=HEARTBEAT_S if heartbeats else None,
                    grace_period=GRACE_PERIOD_S if heartbeats else None,
                )
            except (RuntimeError, CommandError) as error:  # of several versions at once
                raise SchemaError(str(error)) from None

    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            return create()
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            others = "already exists" in str(error) or "UNIQUE" in str(error).upper()
            if not others or time.monotonic() > deadline:
                raise
        time.sleep(CREATION_PAUSE_S)


@contextmanager
def translate_corruption() -> Iterator[None]:
    """Tell what Optuna cannot read back from failures of the storage.

    Raises:
        CorruptStudyError: Somebody else wrote it.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of odd choices
            yield
    except _CORRUPT as error:
        if isinstance(error, STORAGE_FAILURES):
            raise
        lines = f"{type(error).__name__}: {error}".splitlines()
        raise CorruptStudyError(lines[0][:300]) from None


def _make_sqlite_fast(engine: sqlalchemy.Engine) -> None:
    """Write ahead, and do not wait for the disk at each of a trial's dozen writes.

    A killed process loses nothing that was committed; a machine that loses power may lose the
    last trials, never the file.
    """

    def set_pragmas(connection: Any, record: object) -> None:
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous=NORMAL")

    sqlalchemy.event.listen(engine, "connect", set_pragmas)
    engine.dispose()


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Have a file written ahead, once the other processes that just opened it let it.

    SQLite waits for who holds a lock, but not here: it would upgrade one of its own.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(LOCK_PAUSE_S)


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
            what = str(path)
            if not path.parent.is_dir():
                what = f"{path.parent}, the folder of the database {path.name},"
            raise StorageLostError(
                f"{what} was removed or replaced while it was in use"
                + (
                    f"; what it held is saved as {saved}, and the same command with "
                    f"--study and --storage sqlite:///{saved} resumes"
                    if saved
                    else ""
                )
            )

    sqlalchemy.event.listen(engine, "begin", check)


def _save(database: sqlite3.Connection, path: Path) -> Path | None:
    """Save a database beside where it was, or where temporary files are if its folder is gone."""
    if not path.parent.is_dir():
        path = Path(tempfile.gettempdir()) / path.name
    taken = (path.with_name(f"{path.stem}.saved-{n}{path.suffix}") for n in range(1, 1000))
    copy = next(name for name in taken if not name.exists())
    try:
        database.execute("VACUUM INTO ?", (str(copy),))
    except sqlite3.Error:
        return None
    return copy
