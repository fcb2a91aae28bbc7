"""The parent's side of the measuring process: start it, ask it, kill it, start it again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import psutil

Message = dict[str, Any]

START_DEADLINE_S = 300.0  # importing torch and creating a CUDA context on a busy machine
_END_DEADLINE_S = 10.0  # after SIGKILL; a process that hangs in the driver may take for ever
_LOG_TAIL = 4000  # bytes of the worker's output that are searched for a reason


class WorkerError(RuntimeError):
    """A job got no result. Subclasses say why."""


class JobFailed(WorkerError):
    """The job raised; the message is the exception's."""


class WorkerDied(WorkerError):
    """The process ended while it had a job, or before it could take one."""


class WorkerTimedOut(WorkerError):
    """The job was not done by its deadline, and the process was killed."""


class Worker:
    """One spawned process in a process group of its own, started when it is first needed.

    After a death, a timeout or an error that left the device unusable, the next job is done by
    a new process.
    """

    def __init__(self, target: str, options: Message) -> None:
        """Name what the process runs, `module:function`, and its JSON options."""
        self._target, self._options = target, json.dumps(options)
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        self.greeting: Message = {}
        self.start_seconds: list[float] = []

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> Message:
        """Start the process unless it runs, and return its greeting.

        Raises:
            WorkerError: It did not come up.
        """
        if self._connection is not None:
            return self.greeting
        before = time.monotonic()
        ours, theirs = Pipe()
        self._log.seek(0)
        self._log.truncate()
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "objectives.worker",
                str(os.getpid()),
                str(theirs.fileno()),
                self._target,
                self._options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # a group of its own: killed as a tree, deaf to Ctrl-C
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        theirs.close()
        self._connection = ours
        self.greeting = self._receive("greeting", START_DEADLINE_S, lambda stage: None)
        self.start_seconds.append(time.monotonic() - before)
        return self.greeting

    def call(
        self,
        job: Message,
        *,
        deadline_s: float,
        on_stage: Callable[[str], None] = lambda stage: None,
    ) -> Message:
        """Have one job done and return its result.

        Raises:
            WorkerError: There is no result; see the subclasses. The worker can be called again.
        """
        self.start()
        assert self._connection is not None
        try:
            self._connection.send_bytes(json.dumps(job).encode())
        except OSError:
            raise self._died("before it took the job") from None
        return self._receive("result", deadline_s, on_stage)

    def _receive(
        self, expected: str, deadline_s: float, on_stage: Callable[[str], None]
    ) -> Message:
        """Wait for the answer `expected`, passing stages on."""
        assert self._connection is not None
        deadline, stage = time.monotonic() + deadline_s, "start"
        while True:
            if not self._connection.poll(max(0.0, deadline - time.monotonic())):
                self.kill()
                raise WorkerTimedOut(f"not done after {deadline_s:g} s, in stage '{stage}'")
            try:
                message: Message = json.loads(self._connection.recv_bytes())
            except (EOFError, OSError):
                raise self._died(f"in stage '{stage}'") from None
            if "stage" in message:
                stage = message["stage"]
                on_stage(stage)
            elif "error" in message:
                if not message["usable"]:
                    self.kill()
                raise JobFailed(message["error"])
            else:
                result: Message = message[expected]
                return result

    def _died(self, where: str) -> WorkerDied:
        assert self._process is not None
        try:
            status = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            how = "it hung up"
        else:
            how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        last = self._last_words()
        self.kill()
        return WorkerDied(f"the measuring process ended {where} ({how}){last}")

    def _last_words(self) -> str:
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - _LOG_TAIL))
        text = self._log.read().decode(errors="replace")
        # The profiler marks each of its uses with a line that says nothing here.
        lines = [line for line in text.splitlines() if line.strip() and "USDT:" not in line]
        return f": {lines[-1].strip()[:300]}" if lines else ""

    def kill(self) -> None:
        """Kill the process and everything it started; the next call starts a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is None:
            return
        tree = _tree(self._process.pid)
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        # A process that is still ending holds its GPU memory.
        end = time.monotonic() + _END_DEADLINE_S
        while any(_lives(process) for process in tree) and time.monotonic() < end:
            time.sleep(0.01)

    def close(self) -> None:
        """Kill the process for good."""
        self.kill()
        self._log.close()


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
