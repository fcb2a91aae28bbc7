"""Whatever a job does to its process, the next one is done."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from objectives.process import client as isolation
from objectives.process.client import (
    JobFailed,
    MeasurementProcess,
    ProcessDied,
    ProcessOutOfMemory,
    ProcessTimedOut,
    ProcessUnavailable,
)

TARGET = "tests.objectives.process.toy_handler:start_handler"


@pytest.fixture
def process() -> Iterator[MeasurementProcess]:
    process = MeasurementProcess(TARGET, {"seed": 1})
    yield process
    process.close()


def call(
    process: MeasurementProcess, do: str, deadline_s: float = 20.0, **job: object
) -> dict[str, object]:
    return process.call({"do": do, **job}, deadline_s=deadline_s)


def still_works(process: MeasurementProcess) -> int:
    answer = call(process, "echo", value="ok")
    assert answer["value"] == "ok"
    assert isinstance(answer["pid"], int)
    return answer["pid"]


def ends(pid: int) -> bool:
    """Tell whether a process is gone within a few seconds."""
    for _ in range(100):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_one_process_does_many_jobs_in_its_own_group(process: MeasurementProcess) -> None:
    assert process.start() == {"hello": {"seed": 1}}
    pids = {still_works(process) for _ in range(5)}
    assert len(pids) == 1
    assert os.getpgid(pids.pop()) == process.pid != os.getpgid(0)
    assert (len(process.start_seconds), process.jobs) == (1, 5)


def test_an_exception_is_the_jobs_and_the_process_goes_on(process: MeasurementProcess) -> None:
    pid = still_works(process)
    with pytest.raises(JobFailed, match="ValueError: what happened"):
        call(process, "fail", text="what happened")
    assert still_works(process) == pid


def test_a_sticky_error_replaces_the_process(process: MeasurementProcess) -> None:
    pid = still_works(process)
    with pytest.raises(JobFailed, match="illegal memory access"):
        call(process, "fail_sticky")
    assert still_works(process) != pid


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
def test_a_signal_is_a_death_with_its_name(process: MeasurementProcess, name: str) -> None:
    with pytest.raises(ProcessDied, match=rf"'doing die_by_signal' \({name}\)"):
        call(process, "die_by_signal", signal=int(getattr(signal, name)))
    still_works(process)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_asks_the_whole_job_to_end_does_not_end_a_trial(
    process: MeasurementProcess, number: signal.Signals
) -> None:
    pid = still_works(process)

    def ask(stage: str) -> None:
        os.killpg(os.getpgid(pid), number)

    process.call({"do": "sleep", "seconds": 0.2}, deadline_s=30, on_stage=ask)
    assert still_works(process) == pid


def test_an_exit_is_a_death_with_the_last_words(process: MeasurementProcess) -> None:
    with pytest.raises(ProcessDied, match=r"\(exit status 3\): the last words"):
        call(process, "exit")
    still_works(process)


@pytest.mark.parametrize("do", ["sleep", "ignore_sigterm_and_sleep"])
def test_a_hang_ends_at_its_deadline(process: MeasurementProcess, do: str) -> None:
    still_works(process)
    before = time.monotonic()
    with pytest.raises(ProcessTimedOut, match=rf"not done after 0\.5 s, in stage 'doing {do}'"):
        call(process, do, deadline_s=0.5, seconds=60)
    assert time.monotonic() - before < 10
    still_works(process)


def test_a_timeout_kills_the_whole_tree_even_other_sessions(process: MeasurementProcess) -> None:
    stages: list[str] = []
    with pytest.raises(ProcessTimedOut):
        process.call({"do": "spawn_and_hang"}, deadline_s=2.0, on_stage=stages.append)
    assert ends(int(stages[-1].removeprefix("child ")))


def test_a_daemon_that_a_job_left_behind_ends_with_the_process(
    process: MeasurementProcess,
) -> None:
    daemon = call(process, "spawn_daemon")["value"]
    assert isinstance(daemon, int)
    assert psutil.pid_exists(daemon)
    process.kill()
    assert ends(daemon)


def test_what_it_prints_is_never_taken_for_an_answer(process: MeasurementProcess) -> None:
    assert call(process, "print_garbage")["value"] == "truth"
    still_works(process)


def test_a_flood_of_prints_is_neither_kept_nor_waited_for(process: MeasurementProcess) -> None:
    assert call(process, "flood")["value"] == "truth"
    with pytest.raises(ProcessDied, match=r"exit status 3\): the last words$"):
        call(process, "exit")


@pytest.mark.parametrize(
    ("text", "times", "error", "reason"),
    [
        ('{"result": {"value"', 1, ProcessTimedOut, "not done after 1 s"),  # a part of a message
        ("garbage\n", 1, ProcessDied, "sent what is no message"),
        ("[1]\n", 1, ProcessDied, "sent what is no message"),
        ("[" * 50_000 + "\n", 1, ProcessDied, "sent what is no message"),
        ('{"result": 1}\n', 1, ProcessDied, "sent no answer"),
        ("x" * 2**20, 20, ProcessDied, "a message without an end"),
    ],
)
def test_a_broken_process_is_replaced(
    process: MeasurementProcess, text: str, times: int, error: type[Exception], reason: str
) -> None:
    still_works(process)
    with pytest.raises(error, match=reason):
        call(process, "send_raw", deadline_s=1.0 if times == 1 else 20.0, text=text, times=times)
    still_works(process)


def test_stages_without_end_are_late_as_well(process: MeasurementProcess) -> None:
    still_works(process)
    with pytest.raises(ProcessTimedOut, match=r"not done after 0\.5 s, in stage 'again'"):
        call(process, "flood_stages", deadline_s=0.5)


@pytest.mark.parametrize(
    ("do", "text"),
    [
        ("unprintable", r"Unprintable: \(it cannot be printed\)"),
        ("surrogate", r"half a pair: \\ud800"),
        ("no_json", "TypeError: Object of type set is not JSON serializable"),
    ],
)
def test_what_cannot_be_sent_is_told_in_words(
    process: MeasurementProcess, do: str, text: str
) -> None:
    pid = still_works(process)
    with pytest.raises(JobFailed, match=text):
        call(process, do)
    assert still_works(process) == pid


def test_a_stage_has_a_deadline_of_its_own(process: MeasurementProcess) -> None:
    def limit_s(stage: str) -> float:
        return {"compile": 5.0, "measure": 0.3}[stage]

    def work(*stages: tuple[str, float]) -> object:
        job = {"do": "stages", "stages": [("compile", 0), *stages]}
        return process.call(
            job, deadline_s=20.0, stage_limit_s=lambda s: limit_s(s) if " " not in s else 20.0
        )["value"]

    assert work(("compile", 0.5), ("measure", 0.0), ("compile", 0.5)) == "done"
    with pytest.raises(ProcessTimedOut, match=r"stage 'measure' not done after 0\.3 s, by what"):
        work(("compile", 0.0), ("measure", 30))
    still_works(process)


def test_a_death_between_jobs_costs_no_job(process: MeasurementProcess) -> None:
    pid = still_works(process)
    os.kill(pid, signal.SIGKILL)
    assert ends(pid)
    assert still_works(process) != pid


def test_a_death_before_the_job_has_begun_costs_no_job(process: MeasurementProcess) -> None:
    pid = still_works(process)
    psutil.Process(pid).suspend()
    killer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
    killer.start()
    assert still_works(process) != pid
    killer.join()


def test_a_process_that_the_kernel_ends_for_memory_says_so(
    process: MeasurementProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("oom_kill 7\n")
    monkeypatch.setattr(isolation, "_KERNEL_COUNTERS", counters)
    with pytest.raises(ProcessOutOfMemory, match="no host memory left in stage 'doing"):
        call(process, "killed_for_memory", counters=str(counters))
    assert call(process, "killing_order")["value"] == "1000\n"  # before any other process


def test_what_it_starts_cannot_speak_for_it(process: MeasurementProcess) -> None:
    assert call(process, "open_sockets")["value"] == 0


def test_a_process_that_does_not_come_up_says_why() -> None:
    process = MeasurementProcess(TARGET, {"refuse_to_start": True})
    with pytest.raises(ProcessUnavailable, match="RuntimeError: cannot start"):
        process.start()
    assert process.pid is None


def test_a_process_that_came_up_before_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(isolation, "_START_PAUSES_S", (0.0, 0.0, 0.0))
    process = MeasurementProcess(
        TARGET, {"starts": str(tmp_path / "starts"), "failing": [2, 3, 5, 6, 7]}
    )
    still_works(process)
    process.kill()
    still_works(process)
    process.kill()
    with pytest.raises(ProcessUnavailable, match="device busy"):
        still_works(process)
    assert process.pid is None
    still_works(process)
    process.close()


def test_a_greeting_that_is_not_welcome_ends_the_process() -> None:
    class Unwelcome(Exception):
        pass

    def refuse(greeting: object) -> None:
        raise Unwelcome

    process = MeasurementProcess(TARGET, {}, refuse)
    with pytest.raises(Unwelcome):
        process.start()
    assert process.pid is None


@pytest.mark.parametrize("hangs", [False, True])
def test_nothing_outlives_a_parent_that_is_killed(hangs: bool) -> None:
    code = (
        "import time; from objectives.process.client import MeasurementProcess;"
        f"process = MeasurementProcess({TARGET!r}, {{}});"
        "pid = process.call({'do': 'echo', 'value': 1}, deadline_s=20)['pid'];"
        "daemon = process.call({'do': 'spawn_daemon'}, deadline_s=20)['value'];"
        "print(process.pid, pid, daemon, flush=True);"
        + ("process.call({'do': 'spawn_and_hang'}, deadline_s=60)" if hangs else "time.sleep(60)")
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    if hangs:
        time.sleep(0.3)
        pids += [child.pid for child in psutil.Process(pids[0]).children(recursive=True)]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert all(ends(pid) for pid in pids)


def test_it_ends_at_once_when_its_parent_is_gone_already() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    command = [
        sys.executable,
        "-m",
        "objectives.process.server",
        str(theirs.fileno()),
        TARGET,
        "{}",
        "[]",
    ]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL)
    theirs.close()
    process.wait(timeout=20)
    assert process.returncode in (0, 1)  # hung up, or broken off while it greeted
