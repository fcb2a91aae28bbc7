"""What a database can do to a run."""

from __future__ import annotations

import datetime as dt
import shutil
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import sqlalchemy
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from studies.results.results import as_table, read_results
from studies.storage import database as storage
from studies.storage import owner
from studies.storage.database import STORAGE_FAILURES, StorageLostError, failure_text
from studies.storage.owner import is_dead, this_process
from studies.storage.url import DatabaseUrlError
from studies.study.attributes import ENVIRONMENT, EVALUATION, OWNER, StudyError
from studies.study.opening import open_study
from studies.study.plan import environments_of
from studies.study.study import DIRECTIONS, load_study, open_storage
from studies.study.trials import ask, finished_trials
from tests.fake_bench import FakeBench
from tests.studies.session.test_session import run, session


def test_a_full_disk_says_so_and_keeps_what_was_told(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'full.db'}"
    room = sqlite3.connect(tmp_path / "full.db")
    of = session(open_storage(url), sampler="random")
    run(of, 5)
    (pages,) = room.execute("PRAGMA page_count").fetchone()

    def limit(connection: sqlite3.Connection, record: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages + 5}")

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", limit)
    try:
        of = session(open_storage(url), sampler="random")
        with pytest.raises(STORAGE_FAILURES) as raised:
            run(of, 100)
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "connect", limit)
    assert failure_text(raised.value) == "database or disk is full"
    room.close()
    resumed = session(open_storage(url), sampler="random")
    assert resumed.tried() >= 5
    assert resumed.abandoned <= 1
    run(resumed, 3)


def test_a_locked_database_is_waited_for_and_then_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "LOCK_TIMEOUT_S", 0.2)
    path = tmp_path / "locked.db"
    of = session(open_storage(f"sqlite:///{path}"), sampler="random")
    run(of, 2)
    other = sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(STORAGE_FAILURES) as raised:
        of.trial()
    assert failure_text(raised.value) == "database is locked"
    other.close()
    run(of, 2)
    assert of.tried() >= 4


def test_a_new_database_that_another_process_reads_is_waited_for(tmp_path: Path) -> None:
    # SQLite does not wait itself where it begins to write ahead.
    path = tmp_path / "new.db"
    RDBStorage(f"sqlite:///{path}").engine.dispose()
    reads = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    reads.execute("BEGIN")
    reads.execute("SELECT * FROM studies").fetchall()
    assert reads.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    ends = threading.Timer(0.3, lambda: reads.execute("COMMIT"))
    ends.start()
    opened = open_storage(f"sqlite:///{path}")
    assert opened.get_all_studies() == []
    ends.join()
    reads.close()
    with closing(sqlite3.connect(path)) as again:
        assert again.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_new_database_that_stays_locked_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "LOCK_TIMEOUT_S", 0.2)
    path = tmp_path / "new.db"
    RDBStorage(f"sqlite:///{path}").engine.dispose()
    reads = sqlite3.connect(path, isolation_level=None)
    reads.execute("BEGIN")
    reads.execute("SELECT * FROM studies").fetchall()
    with pytest.raises(STORAGE_FAILURES) as raised:
        open_storage(f"sqlite:///{path}").get_all_studies()
    assert failure_text(raised.value) == "database is locked"
    reads.close()


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_removed_database_is_noticed_and_saved(tmp_path: Path, how: str) -> None:
    path = tmp_path / "study.db"
    of = session(open_storage(f"sqlite:///{path}"), sampler="random")
    keys = run(of, 4)
    path.unlink()
    if how == "replaced":
        path.write_bytes(b"")
    with pytest.raises(StorageLostError, match=r"study\.db was removed .*/study\.saved-1\.db res"):
        of.trial()
    copy = open_storage(f"sqlite:///{tmp_path / 'study.saved-1.db'}")
    assert [t.evaluation.configuration.key for t in finished_trials(load_study(copy, "s"))] == keys
    run(session(copy, sampler="random"), 3)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_removed_folder_is_noticed_and_its_database_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "temporary"
    folder.mkdir()
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    of = session(open_storage(f"sqlite:///{folder / 'study.db'}"), sampler="random")
    keys = run(of, 4)
    shutil.rmtree(folder)
    if replaced:
        folder.write_bytes(b"")
    said = (
        rf"{folder}, the folder of the database study\.db, was removed .*/study\.saved-1\.db res"
    )
    with pytest.raises(StorageLostError, match=said):
        of.trial()
    copy = open_storage(f"sqlite:///{elsewhere / 'study.saved-1.db'}")
    assert [t.evaluation.configuration.key for t in finished_trials(load_study(copy, "s"))] == keys


def test_a_folder_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'absent' / 'study.db'}"
    with pytest.raises(
        DatabaseUrlError, match=f"storage must be a database in a folder .*, got {url}"
    ):
        open_storage(url)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:study.db?mode=memory&uri=true",
    ],
)
def test_a_database_in_memory_is_refused_in_words(url: str) -> None:
    with pytest.raises(
        DatabaseUrlError, match=r"storage must be a file or a server, got sqlite:.*memory"
    ):
        open_storage(url)


def test_who_only_reads_makes_no_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'absent.db'}"
    said = f"^storage must be .* exists, got {url}: no such file; "
    with pytest.raises(DatabaseUrlError, match=said):
        open_storage(url, create=False)
    assert list(tmp_path.iterdir()) == []
    run(session(open_storage(url), sampler="random"), 1)
    assert sum(1 for _ in finished_trials(load_study(open_storage(url, create=False), "s"))) == 1


@pytest.mark.parametrize(
    ("statement", "advice"),
    [
        ("UPDATE alembic_version SET version_num = 'v99.0.0.a'", "pip install -U optuna"),
        ("UPDATE alembic_version SET version_num = 'v2.4.0.a'", "optuna storage upgrade"),
        ("INSERT INTO alembic_version VALUES ('v99.0.0.a')", "more than one"),
    ],
)
def test_a_database_of_another_version_of_optuna_is_one_line(
    tmp_path: Path, statement: str, advice: str
) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    run(session(open_storage(url), sampler="random"), 1)
    with closing(sqlite3.connect(tmp_path / "study.db")) as other, other:
        (before,) = other.execute("SELECT version_num FROM alembic_version").fetchone()
        other.execute(statement)
    with pytest.raises(StudyError, match=f"^storage must be .* Optuna, got {url}: .*{advice}"):
        open_storage(url)
    with closing(sqlite3.connect(tmp_path / "study.db")) as other, other:
        other.execute("DELETE FROM alembic_version")
        other.execute("INSERT INTO alembic_version VALUES (?)", (before,))
    assert session(open_storage(url), sampler="random").tried() == 1  # nothing was lost


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("not a database" * 100)
    with pytest.raises(StudyError, match=r"storage must be a database .*: .*not a database"):
        open_storage(f"sqlite:///{path}")


def test_tables_that_another_process_creates_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, attempts = f"sqlite:///{tmp_path / 'new.db'}", 0

    class Slow(RDBStorage):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            nonlocal attempts
            attempts += 1
            if attempts < 20:
                raise OperationalError("CREATE", {}, Exception("table trials already exists"))
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(storage, "RDBStorage", Slow)
    monkeypatch.setattr(storage, "CREATION_PAUSE_S", 0.0)
    run(session(open_storage(url), sampler="random"), 1)
    attempts = 0
    monkeypatch.setattr(storage, "LOCK_TIMEOUT_S", 0.0)  # but not for ever
    with pytest.raises(StudyError, match="table trials already exists"):
        open_storage(url)


def test_a_creation_that_was_cut_short_is_taken_up(storage: BaseStorage) -> None:
    # What is there when the process dies between two of the writes.
    optuna.create_study(study_name="s", storage=storage, directions=DIRECTIONS)
    run(session(storage, sampler="random"), 1)
    begun = optuna.create_study(study_name="t", storage=storage, directions=DIRECTIONS)
    begun.set_user_attr(ENVIRONMENT, FakeBench().environment().model_dump(mode="json"))
    run(session(storage, sampler="random", name="t"), 1)
    foreign = optuna.create_study(study_name="u", storage=storage, directions=DIRECTIONS)
    foreign.ask()
    with pytest.raises(StudyError, match="not one of this product's"):
        session(storage, name="u")


def test_the_clock_may_go_backwards(storage: BaseStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    class Backwards(dt.datetime):
        looked = 0

        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Backwards:
            cls.looked += 1
            return cls(2026, 1, 1, tzinfo=tz) - dt.timedelta(hours=cls.looked)

    of = session(storage, sampler="random")
    mine, began = of.study.ask(), time.time()
    mine.set_user_attr(OWNER, this_process().model_dump())
    monkeypatch.setattr(dt, "datetime", Backwards)
    monkeypatch.setattr(time, "time", lambda: began - 1e6)
    monkeypatch.setattr("optuna.storages._rdb.storage.datetime", Backwards)
    # What psutil makes of it: when a process started is told by the wall clock.
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: began - 1e6)
    keys = run(of, 20)
    assert len(set(keys)) == 20
    assert Backwards.looked > 20
    resumed = session(storage, sampler="random")
    assert resumed.abandoned == 0  # its owner lives
    assert of.study.trials[0].state is TrialState.RUNNING
    assert set(run(resumed, 10)).isdisjoint(keys)


@pytest.mark.parametrize(
    ("change", "dead"),
    [
        ({}, False),
        ({"pid": 2**22 + 1}, True),
        ({"started_ticks": 1}, True),  # the id is used again
        ({"boot": "another"}, True),
        ({"host": "another", "boot": "another"}, False),
        ({"pid": "x" * 1000}, True),
    ],
)
def test_owners(change: dict[str, object], dead: bool) -> None:
    assert is_dead(this_process().model_dump() | change) is dead


ELSEWHERE = {"host": "gpu2", "boot": "another", "pid": 7, "started_ticks": 7}


def test_an_sqlite_study_that_another_host_measures_is_refused_at_first_and_later(
    storage: BaseStorage,
) -> None:
    of = session(storage, sampler="random")
    run(of, 2)
    there = of.study.ask()
    there.set_user_attr(OWNER, ELSEWHERE)
    refused = r"on another host, gpu2 \(trial 2, begun 20\d\d-.*PostgreSQL.* --take-over abandons"
    with pytest.raises(StudyError, match=refused) as raised:
        session(storage, sampler="random")
    assert "\n" not in str(raised.value)
    with pytest.raises(StudyError, match=refused):  # it came while this one measured
        of.trial()
    assert [trial.state for trial in of.study.trials[2:]] == [TrialState.RUNNING]


def test_what_another_host_left_is_taken_over_on_request(storage: BaseStorage) -> None:
    of = session(storage, sampler="random")
    keys = run(of, 2)
    of.study.ask().set_user_attr(OWNER, ELSEWHERE)
    told_there, alive = ask(of.study), of.study.ask()
    evaluation = of.workers[0].bench.evaluate(of.plan.space.configuration(told_there.params))
    told_there.set_user_attr(EVALUATION, evaluation.model_dump(mode="json"))
    told_there.set_user_attr(OWNER, ELSEWHERE)
    alive.set_user_attr(OWNER, this_process().model_dump())
    over = session(storage, sampler="random", take_over=True)
    assert over.abandoned == 1
    states = [trial.state for trial in over.study.trials[2:]]
    assert states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.RUNNING]
    assert set(run(over, 3)).isdisjoint([*keys, evaluation.configuration.key])
    session(storage, sampler="random")  # it is once and for all


def test_in_postgresql_other_hosts_are_welcome_and_heartbeats_settle_it(postgres_url: str) -> None:
    opened = open_storage(postgres_url)
    of = session(opened, sampler="random")
    run(of, 1)
    ask(of.study).set_user_attr(OWNER, ELSEWHERE)
    run(session(opened, sampler="random"), 1)
    assert of.study.trials[1].state is TrialState.RUNNING
    with pytest.raises(StudyError, match=r"--take-over is for SQLite files: .* after 60 s$"):
        session(opened, sampler="random", take_over=True)


def test_a_process_that_ended_unwaited_for_is_dead() -> None:
    with subprocess.Popen(["true"]) as process:
        while owner._started_ticks(process.pid) is not None:
            time.sleep(0.01)
        assert is_dead(this_process().model_dump() | {"pid": process.pid})


@pytest.mark.parametrize("stored", [None, 7, "x", [], {"pid": 1}])
def test_what_is_no_owner_is_nobody(stored: object) -> None:
    assert is_dead(stored)


def test_a_changed_environment_is_refused_or_marked(storage: BaseStorage) -> None:
    bench, other = FakeBench(), FakeBench(profile="h200")
    of = session(storage, bench, sampler="random")
    run(of, 3)
    plan = of.plan
    with pytest.raises(StudyError, match=r"device\.name: NVIDIA H100.*\(--new-environment"):
        open_study(storage, "s", plan, other.environment())
    changed = plan.model_copy(update={"seed": 1})
    with pytest.raises(StudyError, match=r"seed: 0 there, 1 here$"):  # never another plan
        open_study(storage, "s", changed, other.environment(), new_environment=True)

    open_study(storage, "s", plan, other.environment(), new_environment=True)
    moved = session(storage, other, sampler="random")
    run(moved, 2)
    # Again the same: nothing differs, nothing is added.
    open_study(storage, "s", plan, other.environment(), new_environment=True)
    assert environments_of(moved.study) == [bench.environment(), other.environment()]
    assert [trial.environment for trial in finished_trials(moved.study)] == [1, 1, 1, 2, 2]
    results = read_results(moved.study)
    assert results.environment == other.environment()
    assert results.earlier_environments == (bench.environment(),)
    assert as_table(results)["environment"].dropna().tolist() == [1, 1, 1, 2, 2]
    # Hosts of an environment that was let in come and go; their trials are told apart.
    back = session(storage, bench, sampler="random")
    run(back, 1)
    assert [trial.environment for trial in finished_trials(back.study)] == [1, 1, 1, 2, 2, 1]
    with pytest.raises(StudyError, match=r"device\.name: NVIDIA H200.*\(--new-environment"):
        open_study(storage, "s", plan, FakeBench(profile="a100").environment())
