"""Several processes on one study: nothing is measured twice, whoever dies or is paused."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

import pytest
import sqlalchemy
from optuna.trial import TrialState

from studies.storage.optuna_internals import engine_of
from studies.study.attributes import ABANDONED, OWNER
from studies.study.study import load_study, open_storage
from studies.study.trials import finished_trials
from tests.postgres import Server
from tests.search.joined_run import LOST, measure

PROCESSES = 8
CONTEXT = get_context("forkserver")  # one process imports what is needed, for all of them
CONTEXT.set_forkserver_preload(["tests.search.joined_run"])


class Size(NamedTuple):
    """How long a test is."""

    trials: int
    grace_s: int  # longer than an ask takes, whatever else the machine does


def lines_of(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def pids_in(log: Path) -> set[str]:
    return {line.split()[0] for line in lines_of(log)}


def wait_for(condition: Callable[[], bool], running: list[ForkServerProcess]) -> None:
    while not condition():
        assert any(process.is_alive() for process in running)
        time.sleep(0.02)


def stop_some(
    log: Path, size: Size, running: list[ForkServerProcess], *, others_go_on: bool
) -> list[int]:
    """Kill three, pause one past its grace period, at random moments; returns the killed ones."""
    rng = random.Random(os.urandom(8))
    *killed, paused = rng.sample([process.pid or 0 for process in running], 4)
    wait_for(lambda: len(pids_in(log)) == PROCESSES, running)
    told = len(lines_of(log))
    moments = sorted(rng.sample(range(told, (told + size.trials) // 2), 4))
    # The paused one is the last: it may hold the lock that all others wait for.
    for moment, pid in zip(moments, [*killed, paused], strict=True):
        wait_for(partial(lambda least: len(lines_of(log)) >= least, moment), running)
        time.sleep(rng.random() * 0.1)
        os.kill(pid, signal.SIGSTOP if pid == paused else signal.SIGKILL)
    time.sleep(2 * size.grace_s)
    if others_go_on:
        # They tell one more, or have told all: a line may be missing, of one that was stopped
        # between telling and writing it.
        more = len(lines_of(log)) + 1
        others = [process for process in running if process.pid != paused]
        wait_for(
            lambda: len(lines_of(log)) >= more or not any(each.is_alive() for each in others),
            running,
        )
    os.kill(paused, signal.SIGCONT)
    return killed


def check_that_nothing_is_lost_or_tried_twice(
    url: str, folder: Path, size: Size, *, others_go_on: bool
) -> None:
    """Have eight processes measure while some of them are killed and paused."""
    log, begun = folder / "told.txt", CONTEXT.Barrier(PROCESSES)
    running = [
        CONTEXT.Process(target=measure, args=(url, log, size.trials, size.grace_s, begun))
        for _ in range(PROCESSES)
    ]
    began = time.monotonic()
    try:
        for process in running:
            process.start()
        killed = stop_some(log, size, running, others_go_on=others_go_on)
        for process in running:
            process.join(1800)
    finally:
        for process in running:
            process.kill()
    seconds = time.monotonic() - began
    for process in running:
        assert process.exitcode == (-signal.SIGKILL if process.pid in killed else 0)

    study = load_study(open_storage(url), "s")
    keys = [trial.evaluation.configuration.key for trial in finished_trials(study)]
    assert len(keys) == len(set(keys)) == size.trials
    states = Counter(trial.state for trial in study.trials)
    assert states.keys() <= {TrialState.COMPLETE, TrialState.FAIL}
    # Who was killed left at most the trial in flight; who lives may have lost one without a word,
    # while it asked, and one without an owner to the one that was paused, which did not know yet
    # that it had lost the lock.
    abandoned = Counter[str]()
    for trial in study.get_trials(states=(TrialState.FAIL,)):
        assert trial.user_attrs[ABANDONED]
        abandoned[str(trial.user_attrs.get(OWNER, {}).get("pid"))] += 1
    assert sum(abandoned[str(pid)] for pid in (None, *killed)) <= len(killed) + 1
    lost = Counter(line.split()[0] for line in lines_of(log) if line.endswith(LOST))
    assert lost <= abandoned
    print(f"{size.trials} trials in {seconds:.1f} s, {abandoned.total()} abandoned")


@pytest.fixture
def size(pytestconfig: pytest.Config) -> Size:
    return Size(2000, 10) if pytestconfig.getoption("--everything") else Size(80, 4)


@pytest.mark.timeout(3600)
def test_processes_share_an_sqlite_file(tmp_path: Path, size: Size) -> None:
    url = f"sqlite:///{tmp_path / 's.db'}"
    # Who is paused may hold the lock of the file: there, others wait.
    check_that_nothing_is_lost_or_tried_twice(url, tmp_path, size, others_go_on=False)
    held = subprocess.run(["flock", "-n", f"{tmp_path / 's.db'}.lock", "true"], check=False)
    assert held.returncode == 0  # the lock is free


@pytest.mark.timeout(3600)
def test_processes_share_a_postgresql_database(
    postgres: Server, postgres_url: str, tmp_path: Path, size: Size
) -> None:
    # The process that all are forked from may be older than the variable with the password.
    url = postgres.with_password(postgres_url)
    check_that_nothing_is_lost_or_tried_twice(url, tmp_path, size, others_go_on=True)
    engine = engine_of(open_storage(postgres_url))
    assert engine is not None
    locks = sqlalchemy.text(
        "SELECT locktype, pid FROM pg_locks WHERE pid <> pg_backend_pid() AND database = "
        "(SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with engine.connect() as connection:
        # A server learns of a client's death a moment later.
        for _ in range(600):
            left = connection.execute(locks).all()
            if not left:
                break
            time.sleep(0.1)
    assert left == []
