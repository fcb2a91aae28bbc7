"""`kill -9` of a run at any moment: nothing told is lost, nothing told is measured again."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from optuna.trial import TrialState

from studies.study import load_study, open_storage, told
from tests.studies.test_session import run, session

TRIALS = 40


def start(url: str, pause_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.search.fake_run", url, str(TRIALS), str(pause_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def told_keys(url: str) -> list[str]:
    study = load_study(open_storage(url), "s")
    return [record.evaluation.configuration.key for record in told(study)]


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
