"""The parent's side of the measuring process: start it, ask it, kill it, start it again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from objectives.process.messages import Inbox, Message, NoMessageError, encode
from objectives.process.placement import Placement

START_DEADLINE_S = 300.0  # importing torch and creating a CUDA context on a busy machine
# Before each try: what a device still does of a process that was killed may keep the next one out.
_START_PAUSES_S = (0.0, 1.0, 5.0)
_END_DEADLINE_S = 10.0  # after SIGKILL; a process that hangs in the driver may take for ever
_KERNEL_COUNTERS = Path("/proc/vmstat")


class ProcessError(RuntimeError):
    """A job got no result from the measuring process. Subclasses say why."""


class JobFailed(ProcessError):
    """The job raised; the message is the exception's."""


class JobOutOfMemory(JobFailed):
    """The job asked for more host memory than it may have."""


class ProcessUnavailable(ProcessError):
    """The process does not come up. No job is to blame."""


class ProcessDied(ProcessError):
    """The process ended while it had a job."""

    began = True  # False: it had not reported a stage of the job, which may not be to blame


class ProcessOutOfMemory(ProcessDied):
    """The kernel killed the process, because host memory had run out."""


class ProcessTimedOut(ProcessError):
    """The job, or a stage of it, was not done by its deadline, and the process was killed."""


class MeasurementProcess:
    """The process that measures: spawned in a process group of its own when it is first needed.

    It does one job at a time. After a death, a timeout or an error that left the device unusable,
    the next job is done by a new process.
    """

    def __init__(
        self,
        target: str,
        options: Message,
        welcome: Callable[[Message], None] = lambda greeting: None,
        placement: Placement | None = None,
    ) -> None:
        """Keep what to start; nothing is started yet.

        Args:
            target: What the process runs, as `module:function`; see `objectives.process.server`.
            options: Given to the function, as JSON. Later changes count for the next process.
            welcome: Is given the greeting of every process that is started, and may raise.
            placement: Where the process runs; anywhere if not given.
        """
        self._target, self.options = target, dict(options)
        self._welcome = welcome
        self._placement = placement or Placement("")
        self._interrupted = False
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._inbox: Inbox | None = None
        self._memory_kills = 0
        self.greeting: Message = {}
        self.start_seconds: list[float] = []
        self.jobs = 0  # that the present process was given

    @property
    def pid(self) -> int | None:
        """The id of the process's guard while it runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> Message:
        """Start the process unless it runs, and return its greeting.

        Raises:
            ProcessUnavailable: It did not come up; tried several times if it did before.
        """
        if self._interrupted:
            raise ProcessUnavailable("interrupted")
        if self._process is not None and self._ended(0):
            self.kill()  # between two jobs
        pauses = list(_START_PAUSES_S if self.start_seconds else _START_PAUSES_S[:1])
        while self._process is None:
            time.sleep(pauses.pop(0))
            before = time.monotonic()
            try:
                self._spawn()
                self.greeting = self._receive("greeting", START_DEADLINE_S, lambda _: None, None)
                self._welcome(self.greeting)
            except (ProcessError, OSError) as error:
                self.kill()
                if not pauses or self._interrupted:
                    raise ProcessUnavailable(str(error)) from None
            except BaseException:
                self.kill()
                raise
            else:
                self.start_seconds.append(time.monotonic() - before)
        return self.greeting

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        printed, printing = os.pipe()
        self._connection, self._inbox = ours, Inbox(ours, printed)
        self._memory_kills, self.jobs = _kills_for_memory(), 0
        try:
            self._process = subprocess.Popen(
                [
                    # -P: not from the working directory, whose packages may be called as ours.
                    *(sys.executable, "-P", "-m", "objectives.process.server"),
                    *(str(theirs.fileno()), self._target, json.dumps(self.options)),
                    json.dumps(self._placement.cores),
                ],
                stdin=subprocess.DEVNULL,
                stdout=printing,
                stderr=printing,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a group of its own: deaf to Ctrl-C
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
                | dict(self._placement.variables),
            )
        finally:
            theirs.close()
            os.close(printing)

    def call(
        self,
        job: Message,
        *,
        deadline_s: float,
        on_stage: Callable[[str], None] = lambda stage: None,
        stage_limit_s: Callable[[str], float] | None = None,
    ) -> Message:
        """Have one job done and return its result.

        Args:
            job: What to do, as the process's job handler understands it.
            deadline_s: For the whole job.
            on_stage: Is told each stage as it begins.
            stage_limit_s: Says how long a stage may take, where that is less.

        A process that ends before it reports a stage of the job was ended by something else: one
        more is started.

        Raises:
            ProcessError: There is no result; see the subclasses. It can be called again.
        """
        try:
            return self._do(job, deadline_s, on_stage, stage_limit_s)
        except ProcessDied as error:
            if self._interrupted:
                raise ProcessUnavailable("interrupted") from None
            if error.began:
                raise
        return self._do(job, deadline_s, on_stage, stage_limit_s)

    def _do(
        self,
        job: Message,
        deadline_s: float,
        on_stage: Callable[[str], None],
        stage_limit_s: Callable[[str], float] | None,
    ) -> Message:
        self.start()
        assert self._connection is not None
        self.jobs += 1
        try:
            self._connection.settimeout(deadline_s)  # a long job is read while it is sent
            self._connection.sendall(encode(job))
            self._connection.setblocking(False)
        except OSError:
            raise self._died(None) from None
        return self._receive("result", deadline_s, on_stage, stage_limit_s)

    def _receive(
        self,
        expected: str,
        deadline_s: float,
        on_stage: Callable[[str], None],
        stage_limit_s: Callable[[str], float] | None,
    ) -> Message:
        """Wait for the answer `expected`, passing stages on."""
        begin = time.monotonic()
        stage, end = None, begin + deadline_s
        late = f"not done after {deadline_s:g} s, in stage 'start'"
        while True:
            message = self._next(stage, end)
            reported = None if message is None else message.get("stage")
            # A process that reports stages for ever is late as well.
            if message is None or (reported and time.monotonic() >= begin + deadline_s):
                self.kill()
                raise ProcessTimedOut(late)
            if isinstance(reported, str):
                stage = reported
                on_stage(stage)
                end, late = (
                    begin + deadline_s,
                    f"not done after {deadline_s:g} s, in stage '{stage}'",
                )
                limit_s = deadline_s if stage_limit_s is None else stage_limit_s(stage)
                if time.monotonic() + limit_s < end:
                    end = time.monotonic() + limit_s
                    late = (
                        f"stage '{stage}' not done after {limit_s:.3g} s, by what it took others"
                    )
            elif isinstance(message.get("error"), str):
                if not message.get("usable"):
                    self.kill()
                raise (JobOutOfMemory if message.get("memory") else JobFailed)(message["error"])
            elif isinstance(message.get(expected), dict):
                result: Message = message[expected]
                return result
            else:
                raise self._broken("it sent no answer")

    def _next(self, stage: str | None, end: float) -> Message | None:
        assert self._inbox is not None
        try:
            return self._inbox.next(end)
        except EOFError:
            raise self._died(stage) from None
        except NoMessageError as error:
            raise self._broken(str(error)) from None

    def _broken(self, how: str) -> ProcessDied:
        self.kill()
        return ProcessDied(f"the measuring process is broken: {how}")

    def _died(self, stage: str | None) -> ProcessDied:
        assert self._inbox is not None
        ended = self._ended(_END_DEADLINE_S)
        last, status = self._inbox.last_words(), self.kill()
        where = f"in stage '{stage or 'start'}'"
        if status == -signal.SIGKILL and _kills_for_memory() > self._memory_kills:
            died: ProcessDied = ProcessOutOfMemory(f"no host memory left {where}")
        else:
            how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            if not ended:
                how = "it hung up"
            text = f"the measuring process ended {where} ({how})"
            died = ProcessDied(f"{text}: {last}" if last else text)
        died.began = stage is not None
        return died

    def interrupt(self) -> None:
        """End the process from another thread, for good: the job gets no result."""
        self._interrupted = True
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # the guard ends everything below it

    def kill(self) -> int:
        """Kill the process and everything it started; the next call starts a new one.

        Returns its exit status, negative for a signal.
        """
        if self._inbox is not None:
            self._inbox.close()  # hanging up: the guard ends everything below it
            self._inbox = self._connection = None
        if self._process is None:
            return 0
        if not self._ended(_END_DEADLINE_S):
            for process in _tree(self._process.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        # For a guard that was killed itself. Before the wait: the id is still taken.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        status = self._process.wait()
        self._process = None
        return status

    def _ended(self, within_s: float) -> bool:
        """Wait for the end of the process, and leave its id taken."""
        assert self._process is not None
        end, pause_s = time.monotonic() + within_s, 0.0005
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG
        while os.waitid(os.P_PID, self._process.pid, options) is None:
            if time.monotonic() >= end:
                return False
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.02)
        return True

    def close(self) -> None:
        """Kill the process for good."""
        self.kill()


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return []


def _kills_for_memory() -> int:
    """Return how many processes the kernel has killed because memory ran out."""
    try:
        found = re.search(r"^oom_kill (\d+)$", _KERNEL_COUNTERS.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return 0 if found is None else int(found[1])
