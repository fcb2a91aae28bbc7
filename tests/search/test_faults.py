"""Runs in which much goes wrong: every trial gets its outcome, and nothing stays behind."""

from __future__ import annotations

import json
import os
import re
import resource
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from objectives.schema.environment import read_environment
from studies.study.study import load_study, open_storage
from studies.study.trials import finished_trials
from tests.objectives.trial.faulty_handler import ENVIRONMENT, FAULTS, IN_TURN, LOG, RARE, noted
from tests.studies.session.test_session import run, session
from variants.device import DEVICE_PROFILES

ROOT = Path(__file__).parents[2]


def environment(mark: str = "") -> dict[str, str]:
    greeted = read_environment(DEVICE_PROFILES["cpu"].device).model_dump_json()
    paths = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return os.environ | paths | {ENVIRONMENT: greeted, "FAULTS_TEST": mark}


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.search.faulty_run", *arguments],
        cwd=folder,
        env=environment(str(folder)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left_over(mark: str) -> list[str]:
    """Processes that a run has left behind, by a mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FAULTS_TEST") == mark:
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_200_trials_full_of_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOG, str(tmp_path / "faults.txt"))
    run = start(
        tmp_path,
        *("run", "--device", "cpu", "--trials", "200", "--deadline-s", "2"),
        *("--sampler", "random", "--study", "s", "--score-mod", "none,alibi"),
    )
    with run:
        assert run.stdout is not None
        assert run.stderr is not None
        for line in run.stdout:
            if "(50/200)" in line:
                # Another process holds the database for a while.
                with sqlite3.connect(tmp_path / "goldilocks.db") as other:
                    other.execute("BEGIN IMMEDIATE")
                    time.sleep(0.5)
                other.close()
        errors = run.stderr.read()
    assert (run.returncode, errors) == (0, "")
    assert left_over(str(tmp_path)) == []

    study = load_study(open_storage(f"sqlite:///{tmp_path / 'goldilocks.db'}"), "s")
    asked = noted()
    faults = dict(asked)
    kinds: Counter[str | None] = Counter()
    for trial in finished_trials(study):
        evaluation = trial.evaluation
        fault = faults[
            json.dumps(evaluation.configuration.model_dump(mode="json"), sort_keys=True)
        ]
        kinds[fault] += 1
        expected = {**FAULTS, **RARE, None: ("MEASURED", "^$")}[fault]
        assert evaluation.outcome == expected[0], (fault, evaluation.reason)
        assert re.search(expected[1], evaluation.reason), (fault, evaluation.reason)
    assert kinds == Counter([*IN_TURN, *[None] * (200 - len(IN_TURN))])
    # Once each, and again in a new process what earlier trials' memory may explain.
    again = {"device_memory", "host_memory", "memory_of_earlier_trials"}
    met = Counter(fault for _, fault in asked if fault is not None)
    assert met == {fault: kinds[fault] * (1 + (fault in again)) for fault in {*FAULTS, *RARE}}


def begin(folder: Path, told: int) -> subprocess.Popen[str]:
    """Start a run, and return it once so many trials are told."""
    run = start(
        folder,
        *("run", "--device", "cpu", "--trials", "60", "--deadline-s", "2"),
        *("--sampler", "random", "--study", "s", "--score-mod", "none"),
    )
    assert run.stdout is not None
    for line in run.stdout:
        if f"({told}/60)" in line:
            break
    return run


def finish(folder: Path, run: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = run.communicate(timeout=60)
    assert left_over(str(folder)) == []
    return run.returncode, errors


def tried(path: Path) -> list[str]:
    study = load_study(open_storage(f"sqlite:///{path}"), "s")
    return [trial.evaluation.configuration.key for trial in finished_trials(study)]


def test_a_full_disk_ends_a_run_in_one_line_and_it_resumes(tmp_path: Path) -> None:
    run = begin(tmp_path, told=10)
    sizes = [file.stat().st_size for file in tmp_path.glob("goldilocks.db*")]
    resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (max(sizes), resource.RLIM_INFINITY))
    status, errors = finish(tmp_path, run)
    assert status == 1
    assert re.fullmatch(r"error: the storage failed: (disk I/O|.*full).*resumes\n", errors)
    kept = tried(tmp_path / "goldilocks.db")
    assert len(kept) >= 10
    run = begin(tmp_path, told=60)
    assert finish(tmp_path, run)[0] == 0
    keys = tried(tmp_path / "goldilocks.db")
    assert keys[: len(kept)] == kept
    assert len(set(keys)) == 60


def test_a_removed_database_ends_a_run_in_one_line_and_is_saved(tmp_path: Path) -> None:
    run = begin(tmp_path, told=10)
    (tmp_path / "goldilocks.db").unlink()
    status, errors = finish(tmp_path, run)
    assert status == 1
    assert re.fullmatch(
        r"error: the storage failed: .* was removed .*saved-1\.db resumes\n", errors
    )
    assert len(tried(tmp_path / "goldilocks.saved-1.db")) >= 10


def test_a_full_disk_behind_the_output_is_one_line(tmp_path: Path) -> None:
    run(session(open_storage(f"sqlite:///{tmp_path / 'goldilocks.db'}"), sampler="random"), 2)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "search", "table"],
            cwd=tmp_path,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "error: [Errno 28] No space left on device\n"
