"""The study lock between processes, of which some are paused while they hold what others need."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import Trial, TrialState
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

import studies.storage.database
import studies.storage.lock
from studies.session.session import PAUSED, Session
from studies.storage.database import is_disconnect, retry_on_disconnect
from studies.storage.lock import LockLostError, StudyLock
from studies.storage.optuna_internals import engine_of, storage_of
from studies.study.attributes import ABANDONED
from studies.study.study import open_storage
from studies.study.trials import ask, recover, tell
from tests.studies.session.test_session import session

SILENCE_S = 1


@pytest.fixture
def url(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(studies.storage.lock, "WAIT_S", float(SILENCE_S))
    monkeypatch.setattr(studies.storage.database, "GRACE_PERIOD_S", SILENCE_S)
    monkeypatch.setattr(studies.storage.database, "HEARTBEAT_S", 1)
    return postgres_url


def joins(url: str) -> Session:
    """Join the study as another process does: with connections of its own."""
    return session(open_storage(url), sampler="random")


def engine(of: Session) -> sqlalchemy.Engine:
    found = engine_of(storage_of(of.study))
    assert found is not None
    return found


@pytest.fixture
def others() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_one_waits_for_the_other(
    database: str,
    storage_url: str,
    request: pytest.FixtureRequest,
    others: ThreadPoolExecutor,
) -> None:
    url = storage_url if database == "sqlite" else request.getfixturevalue("postgres_url")
    first, second = (StudyLock(joins(url).study) for _ in range(2))
    order, waits = [], threading.Event()

    def wait() -> None:
        waits.set()
        with second.held():
            order.append("second")

    with first.held():
        done = others.submit(wait)
        assert waits.wait(30)
        with pytest.raises(TimeoutError):
            done.result(0.3)
        order.append("first")
    done.result(30)
    assert order == ["first", "second"]


def test_a_holder_that_is_silent_loses_the_lock_and_learns_of_it(
    url: str, others: ThreadPoolExecutor
) -> None:
    paused, second = (StudyLock(joins(url).study) for _ in range(2))

    def take() -> None:
        with second.held():
            pass

    def pause(then: Exception | None = None) -> None:
        others.submit(take).result(60)
        if then is not None:
            raise then

    with pytest.raises(LockLostError), paused.held():
        pause()
    # So it does where others made what it was at fail.
    with pytest.raises(LockLostError), paused.held():
        pause(ValueError())
    with pytest.raises(ValueError, match="own"), paused.held():
        raise ValueError("own")
    left = [pause, lambda: None]
    paused.do(lambda: left.pop(0)())
    assert left == []  # done again


def test_who_waits_for_several_in_turns_ends_none_of_them(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies.storage.lock, "WAIT_S", 3.0)
    locks = [StudyLock(joins(url).study) for _ in range(4)]
    held = []

    def hold(lock: StudyLock) -> None:
        with lock.held():
            held.append(lock)
            time.sleep(1.2)

    with ThreadPoolExecutor(len(locks)) as pool:
        for done in [pool.submit(hold, lock) for lock in locks]:
            done.result(60)  # no claim was lost, though the last waited for 3.6 s
    assert len(held) == len(locks)


def test_who_loses_its_connection_while_it_waits_waits_over_another(
    url: str, others: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies.storage.lock, "WAIT_S", 60.0)
    first, second = joins(url), joins(url)

    def take() -> str:
        with StudyLock(second.study).held():
            return "taken"

    end_who_waits = text(
        "SELECT pg_terminate_backend(pid) FROM pg_locks "
        "WHERE locktype = 'advisory' AND NOT granted"
    )
    with StudyLock(first.study).held():
        taken = others.submit(take)
        with engine(first).connect() as connection:
            while not connection.scalar(end_who_waits):
                connection.rollback()
                time.sleep(0.05)
    assert taken.result(30) == "taken"


@pytest.mark.parametrize(("grace_s", "why"), [(60, PAUSED), (SILENCE_S, "its process died")])
def test_who_loses_the_lock_while_it_asks_asks_again(
    grace_s: int,
    why: str,
    url: str,
    others: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(studies.storage.database, "GRACE_PERIOD_S", grace_s)
    paused, other = joins(url), joins(url)
    list(paused.baselines.measure_missing())
    pauses = [lambda: others.submit(other.trial).result(60)]

    def ask_slowly(study: optuna.Study, measured_on: str, environment: int) -> optuna.Trial:
        trial = ask(study, measured_on, environment)
        if pauses and threading.current_thread() is threading.main_thread():
            pauses.pop()()
        return trial

    monkeypatch.setattr("studies.session.session.ask", ask_slowly)
    paused.trial()
    states = [trial.state for trial in paused.study.trials]
    assert states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert paused.study.trials[0].user_attrs[ABANDONED] == why


def test_who_is_given_up_while_it_asks_asks_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process that was paused between taking the lock and looking at who runs goes on as if it
    # had the lock still. It finds a trial that has no owner yet.
    paused, other = joins(url), joins(url)
    list(other.baselines.measure_missing())
    looks = [lambda running: recover(paused.study, running)]

    def begin_slowly(study: optuna.Study, trial: Trial) -> None:
        if looks:
            assert looks.pop()(paused.study.get_trials(states=(TrialState.RUNNING,))) == 1

    monkeypatch.setattr("studies.study.trials.heartbeat.begin", begin_slowly)
    other.trial()
    assert looks == []
    states = [trial.state for trial in other.study.trials]
    assert states == [TrialState.FAIL, TrialState.COMPLETE]


def cut_off(of: Session, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Be silent in a transaction that holds the row of the study, until the server has enough."""
    with engine(of).connect() as connection:
        connection.execute(text("SELECT * FROM studies FOR UPDATE"))
        pid = connection.connection.dbapi_connection.info.backend_pid
        meanwhile()
        with engine(of).connect() as watching:
            alive = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
            while watching.scalar(alive, {"pid": pid}):
                watching.rollback()
                time.sleep(0.05)
        connection.execute(text("SELECT 1"))


def test_what_is_held_in_a_transaction_is_freed_where_its_process_is_silent(url: str) -> None:
    paused, other = joins(url), joins(url)
    list(other.baselines.measure_missing())
    with pytest.raises(DBAPIError) as raised:
        cut_off(paused, meanwhile=other.trial)
    assert is_disconnect(raised.value)
    assert other.tried() == 1


def test_who_only_reads_may_take_longer_than_the_grace_period(url: str) -> None:
    # As what is read of 100,000 trials does, between two rows.
    of = joins(url)
    list(of.baselines.measure_missing())
    of.trial()
    with engine(of).connect() as connection:
        count = text("SELECT count(*) FROM trials")
        assert connection.scalar(count) == 1
        time.sleep(2.5 * SILENCE_S)
        assert connection.scalar(count) == 1


def terminate(of: Session) -> None:
    """Lose a connection as to a server that is restarted."""
    with engine(of).connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


def reset(of: Session) -> None:
    """Lose a connection, and with it whatever the server sent."""
    with engine(of).connect() as connection:
        connection.execute(text("SELECT 1"))
        wire = socket.socket(fileno=os.dup(connection.connection.dbapi_connection.fileno()))
        wire.shutdown(socket.SHUT_RDWR)
        wire.close()
        connection.execute(text("SELECT 1"))


@pytest.mark.parametrize("lose", [cut_off, terminate, reset])
def test_a_trial_that_was_cut_off_while_it_was_told_is_told_again(
    lose: Callable[[Session], None], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = joins(url)
    list(of.baselines.measure_missing())
    pauses = [lambda: lose(of)]

    def tell_slowly(*told: Any) -> None:
        if pauses:
            pauses.pop()()
        tell(*told)

    monkeypatch.setattr("studies.session.session.tell", tell_slowly)
    of.trial()
    assert [trial.state for trial in of.study.trials] == [TrialState.COMPLETE]


def test_a_connection_that_is_lost_again_and_again_is_an_error(url: str) -> None:
    of = joins(url)
    with pytest.raises(DBAPIError):
        retry_on_disconnect(lambda: terminate(of))
