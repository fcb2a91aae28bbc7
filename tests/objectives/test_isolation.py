"""Whatever a job does to its process, the next one is done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from objectives.isolation import JobFailed, Worker, WorkerDied, WorkerTimedOut

TARGET = "tests.objectives.toy_station:attach"


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(TARGET, {"seed": 1})
    yield worker
    worker.close()


def call(worker: Worker, do: str, deadline_s: float = 20.0, **job: object) -> dict[str, object]:
    return worker.call({"do": do, **job}, deadline_s=deadline_s)


def still_works(worker: Worker) -> int:
    answer = call(worker, "echo", value="ok")
    assert answer["value"] == "ok"
    assert isinstance(answer["pid"], int)
    return answer["pid"]


def test_one_process_does_many_jobs_in_its_own_group(worker: Worker) -> None:
    assert worker.start() == {"hello": {"seed": 1}}
    pids = {still_works(worker) for _ in range(5)}
    assert pids == {worker.pid}
    assert os.getpgid(pids.pop()) not in (os.getpgid(0), 0)
    assert len(worker.start_seconds) == 1


def test_an_exception_is_the_jobs_and_the_process_goes_on(worker: Worker) -> None:
    pid = still_works(worker)
    with pytest.raises(JobFailed, match="ValueError: what happened"):
        call(worker, "fail", text="what happened")
    assert still_works(worker) == pid


def test_a_sticky_error_replaces_the_process(worker: Worker) -> None:
    pid = still_works(worker)
    with pytest.raises(JobFailed, match="illegal memory access"):
        call(worker, "fail_sticky")
    assert still_works(worker) != pid


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
def test_a_signal_is_a_death_with_its_name(worker: Worker, name: str) -> None:
    with pytest.raises(WorkerDied, match=rf"'doing die_by_signal' \({name}\)"):
        call(worker, "die_by_signal", signal=int(getattr(signal, name)))
    still_works(worker)


def test_an_exit_is_a_death_with_the_last_words(worker: Worker) -> None:
    with pytest.raises(WorkerDied, match=r"\(exit status 3\): the last words"):
        call(worker, "exit")
    still_works(worker)


@pytest.mark.parametrize("do", ["sleep", "ignore_sigterm_and_sleep"])
def test_a_hang_ends_at_its_deadline(worker: Worker, do: str) -> None:
    still_works(worker)
    before = time.monotonic()
    with pytest.raises(WorkerTimedOut, match=rf"not done after 0\.5 s, in stage 'doing {do}'"):
        call(worker, do, deadline_s=0.5, seconds=60)
    assert time.monotonic() - before < 10
    still_works(worker)


def test_a_timeout_kills_the_whole_tree_even_other_sessions(worker: Worker) -> None:
    stages: list[str] = []
    with pytest.raises(WorkerTimedOut):
        worker.call({"do": "spawn_and_hang"}, deadline_s=2.0, on_stage=stages.append)
    child = int(stages[-1].removeprefix("child "))
    gone = not psutil.pid_exists(child)
    assert gone or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_what_it_prints_is_never_taken_for_an_answer(worker: Worker) -> None:
    assert call(worker, "print_garbage")["value"] == "truth"
    still_works(worker)


def test_a_death_between_jobs_is_noticed_by_the_next(worker: Worker) -> None:
    os.kill(still_works(worker), signal.SIGKILL)
    time.sleep(0.2)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        still_works(worker)
    still_works(worker)


def test_a_process_that_does_not_come_up_says_why() -> None:
    worker = Worker(TARGET, {"refuse_to_start": True})
    with pytest.raises(WorkerDied, match="RuntimeError: cannot start"):
        worker.start()
    worker.close()


def test_it_dies_with_its_parent() -> None:
    code = (
        "import time; from objectives.isolation import Worker;"
        f"worker = Worker({TARGET!r}, {{}}); worker.start();"
        "print(worker.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(50):
        if not psutil.pid_exists(pid):
            return
        time.sleep(0.1)
    raise AssertionError("the worker outlived its parent")


def test_it_ends_at_once_when_its_parent_is_gone_already() -> None:
    command = [sys.executable, "-m", "objectives.worker", str(2**22 + 1), "0", TARGET, "{}"]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode == 1
