"""Several processes on one study: nothing is measured twice, whoever dies or is paused."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from optuna.trial import TrialState

from studies.study import load_study, open_storage, told

LEASE_S = 3
ROOT = Path(__file__).parents[2]


def begin(url: str, log: Path, trials: int) -> subprocess.Popen[str]:
    words = ["-m", "tests.search.joined_run", url, str(log), str(trials), str(LEASE_S)]
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told_so_far(log: Path) -> int:
    return log.read_text().count("\n") if log.exists() else 0


def wait_for(log: Path, count: int, processes: list[subprocess.Popen[str]]) -> None:
    while told_so_far(log) < count:
        alive = [process for process in processes if process.poll() is None]
        assert alive, [process.communicate() for process in processes]
        time.sleep(0.02)


def check_that_nothing_is_lost_or_measured_twice(
    url: str, folder: Path, trials: int, processes: int
) -> None:
    """Kill three of the processes and pause one past its lease, at random moments."""
    log, rng = folder / "told.txt", random.Random(trials)
    running = [begin(url, log, trials) for _ in range(processes)]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n", process.communicate()
    paused, *killed = rng.sample(running, 4)
    moments = sorted(rng.sample(range(trials // 10, trials // 2), 4))
    for moment, process in zip(moments, [paused, *killed], strict=True):
        wait_for(log, moment, running)
        time.sleep(rng.random() * 0.1)
        process.send_signal(signal.SIGSTOP if process is paused else signal.SIGKILL)
    time.sleep(2 * LEASE_S)
    paused.send_signal(signal.SIGCONT)
    for process in running:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == (-signal.SIGKILL if process in killed else 0), errors
    study = load_study(open_storage(url), "s")
    keys = [trial.evaluation.configuration.key for trial in told(study)]
    assert len(keys) == len(set(keys)) == trials
    states = Counter(trial.state for trial in study.trials)
    assert states.keys() <= {TrialState.COMPLETE, TrialState.FAIL}
    # One for each that was killed, and one for the paused; each may have been between two trials.
    assert states[TrialState.FAIL] <= 4
    for trial in study.trials:
        if trial.state is TrialState.FAIL:
            assert trial.user_attrs["outcome"] == "ABANDONED"
    pids = {line.split()[0] for line in log.read_text().splitlines()}
    assert len(pids) == processes  # all took part


def test_processes_share_an_sqlite_file(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    trials = 2000 if pytestconfig.getoption("--everything") else 120
    url = f"sqlite:///{tmp_path / 's.db'}"
    check_that_nothing_is_lost_or_measured_twice(url, tmp_path, trials, 8)
    held = subprocess.run(["flock", "-n", f"{tmp_path / 's.db'}.lock", "true"], check=False)
    assert held.returncode == 0  # the lock is free
