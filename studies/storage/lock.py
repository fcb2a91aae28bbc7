"""The lock under which one process at a time claims what it measures next.

Nothing home-made: PostgreSQL's advisory locks, and the kernel's file locks beside an SQLite file.
Both are released when their holder dies. A holder that is merely paused (a stopped process, a host
that lost its network) would keep PostgreSQL's for ever: those who wait end its connection once it
is silent for too long, and it learns that it has lost its claim when it goes on. What it wrote to
in a transaction is freed by the server itself (`storage`).
"""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

import optuna
import sqlalchemy
from sqlalchemy.exc import DBAPIError

from studies.storage.database import is_disconnect, retry_on_disconnect
from studies.storage.optuna_internals import engine_of, storage_of, study_id_of

T = TypeVar("T")
WAIT_S = 60.0  # that a holder may be silent: longer than an ask in the largest spaces
_LEAST_WAIT_S = 0.1  # between two looks at a holder; 0 would wait for ever
_LOCK_NOT_AVAILABLE = "55P03"  # PostgreSQL's code for lock_timeout
_SPACE = 0x676F6C64  # of our advisory locks, by study
_TAKE = sqlalchemy.text("SELECT pg_advisory_lock(:space, :study)")
_RELEASE = sqlalchemy.text("SELECT pg_advisory_unlock(:space, :study)")
_WAIT = sqlalchemy.text("SELECT set_config('lock_timeout', :milliseconds, false)")
_HOLDER = sqlalchemy.text(
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = :space "
    "AND objid = :study AND objsubid = 2 AND database = "
    "(SELECT oid FROM pg_database WHERE datname = current_database())"
)
# The last thing a holder's connection did was to take the lock: `state_change` says since when it
# is silent. How long we waited does not: others may have held the lock in turns. Asked after who
# holds it: a connection that was idle before it took the lock would seem to be silent.
_END_SILENT = sqlalchemy.text(
    "SELECT silent_s, CASE WHEN silent_s >= :limit_s THEN pg_terminate_backend(pid) END FROM ("
    "SELECT pid, EXTRACT(epoch FROM clock_timestamp() - state_change)::float8 AS silent_s "
    "FROM pg_stat_activity WHERE pid = :pid AND state = 'idle') AS holder"
)


class LockLostError(Exception):
    """Others took the lock from a process that was paused while it held it."""


class StudyLock:
    """Held by one thread of one process of all that work on a study."""

    def __init__(self, study: optuna.Study) -> None:
        self._study_id = study_id_of(study)
        self._engine = engine_of(storage_of(study))
        self._threads = threading.RLock()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock inside the block.

        Raises:
            LockLostError: It was lost meanwhile; raised at the end of the block, and instead of
                any error in it.
        """
        with self._threads, self._between_processes():
            yield

    def do(self, work: Callable[[], T]) -> T:
        """Do some work under the lock; again where it was lost meanwhile."""
        while True:
            try:
                with self.held():
                    return work()
            except LockLostError:
                continue

    def _between_processes(self) -> AbstractContextManager[None]:
        if self._engine is None:  # in memory
            return nullcontext()
        if self._engine.dialect.name == "postgresql":
            return self._advisory(self._engine)
        database = self._engine.url.database
        return _of_file(Path(f"{database}.lock"), self._engine) if database else nullcontext()

    @contextmanager
    def _advisory(self, engine: sqlalchemy.Engine) -> Iterator[None]:
        key = {"space": _SPACE, "study": self._study_id}
        with retry_on_disconnect(lambda: self._taken(engine, key)) as connection:
            try:
                yield
            except Exception as error:
                if not self._release(connection, key) or is_disconnect(error):
                    raise LockLostError from error  # what others do meanwhile makes such errors
                raise
            except BaseException:
                self._release(connection, key)
                raise
            if not self._release(connection, key):
                raise LockLostError

    def _taken(self, engine: sqlalchemy.Engine, key: dict[str, int]) -> sqlalchemy.Connection:
        """Return a connection that holds the lock."""
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            self._take(connection, key)
        except BaseException:
            connection.invalidate()  # it may have the lock, or get it
            connection.close()
            raise
        return connection

    def _release(self, connection: sqlalchemy.Connection, key: dict[str, int]) -> bool:
        """Give the lock back. Tells whether it was still held."""
        try:
            kept = bool(connection.scalar(_RELEASE, key))
            connection.execute(_WAIT, {"milliseconds": "0"})
        except DBAPIError:
            connection.invalidate()
            return False
        return kept

    def _take(self, connection: sqlalchemy.Connection, key: dict[str, int]) -> None:
        wait_s = WAIT_S
        while True:
            connection.execute(_WAIT, {"milliseconds": str(int(wait_s * 1000))})
            try:
                connection.execute(_TAKE, key)
                return
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                    raise
            connection.execute(_RELEASE, key)  # it may be granted while the wait is given up
            of = {"pid": connection.scalar(_HOLDER, key), "limit_s": WAIT_S}
            silent_s = connection.scalar(_END_SILENT, of)
            wait_s = WAIT_S if silent_s is None else max(_LEAST_WAIT_S, WAIT_S - silent_s)


@contextmanager
def _of_file(path: Path, engine: sqlalchemy.Engine) -> Iterator[None]:
    # A file of its own: closing SQLite's would release SQLite's locks.
    try:
        file = path.open("ab")
    except (FileNotFoundError, NotADirectoryError):
        # No folder: the database says what became of it.
        with engine.begin():
            raise
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
