"""`kill -9` of a run at any moment: nothing told is lost, nothing told is measured again."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from optuna.trial import TrialState

from studies.study.study import load_study, open_storage, study_names
from studies.study.trials import finished_trials
from tests.search.test_faults import environment, left_over
from tests.studies.session.test_session import run, session

TRIALS = 40


def start(url: str, pause_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.search.fake_run", url, str(TRIALS), str(pause_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def told_keys(url: str) -> list[str]:
    study = load_study(open_storage(url), "s")
    return [record.evaluation.configuration.key for record in finished_trials(study)]


def test_killed_and_resumed_runs_are_one_uninterrupted_run(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'killed.db'}"
    rng = random.Random(7)
    before: list[str] = []
    for _ in range(4):
        process = start(url, pause_s=0.01)
        time.sleep(rng.uniform(0.1, 0.9))
        process.kill()
        process.communicate()
        now = told_keys(url)
        assert now[: len(before)] == before  # no told trial is lost
        before = now
    process = start(url, pause_s=0.0)
    assert process.wait(timeout=60) == 0
    assert process.stdout is not None
    process.stdout.close()

    keys = told_keys(url)
    assert len(keys) == len(set(keys)) == TRIALS
    measured = (tmp_path / "measured.txt").read_text().splitlines()[16:]  # behind the defaults
    twice = {key for key in measured if measured.count(key) > 1}
    assert len(twice) <= 4  # at most the trial in flight of each kill
    states = {trial.state for trial in load_study(open_storage(url), "s").trials}
    assert TrialState.RUNNING not in states

    uninterrupted = session(open_storage(f"sqlite:///{tmp_path / 'whole.db'}"))
    assert keys == run(uninterrupted, TRIALS)


def test_killed_at_20_moments_nothing_is_lost_twice_or_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "killed.db"
    url = f"sqlite:///{path}"
    rng = random.Random(3)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.search.killed_run", url],
        cwd=tmp_path,
        env=environment(str(tmp_path)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as runs:
        assert runs.stdin is not None
        assert runs.stdout is not None
        keys: list[str] = []
        begun = tmp_path / "resumed.txt"
        begun.touch()
        for number in range(20):
            size, known = begun.stat().st_size, len(keys)
            print(1000, file=runs.stdin, flush=True)
            pid = int(runs.stdout.readline())
            # Half of them at any moment, opening the study included, half once a trial was told.
            if number % 2 == 0:
                assert wait_for(lambda size=size: begun.stat().st_size > size)
                assert wait_for(lambda known=known: count_told(path) > known)
            time.sleep(rng.uniform(0.0, 0.5))
            os.kill(pid, signal.SIGKILL)
            assert runs.stdout.readline() == f"{-signal.SIGKILL}\n"
            if study_names(open_storage(url)):
                now = told_keys(url)
                assert now[: len(keys)] == keys  # no told trial is lost
                keys = now
        assert len(keys) >= 10
        print(len(keys) + 10, file=runs.stdin, flush=True)
        assert [runs.stdout.readline() for _ in "ab"][1] == "0\n"
        runs.stdin.close()
    assert wait_for(lambda: not left_over(str(tmp_path)))

    keys = told_keys(url)
    assert len(keys) == len(set(keys)) >= 20
    states = Counter(trial.state for trial in load_study(open_storage(url), "s").trials)
    assert states[TrialState.RUNNING] == 0
    assert states[TrialState.FAIL] <= 20  # the one in flight of each kill
    measured = Counter((tmp_path / "measured.txt").read_text().splitlines())
    assert measured.total() - len(measured) <= 20  # so is a default


def count_told(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        query = "SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED')"
        return int(database.execute(query).fetchone()[0])


def wait_for(condition: Callable[[], bool]) -> bool:
    return any(condition() or time.sleep(0.05) for _ in range(600))
