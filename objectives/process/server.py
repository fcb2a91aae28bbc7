"""The measuring process's main loop: does one job at a time for its parent.

Run as `python -m objectives.process.server DESCRIPTOR MODULE:FUNCTION OPTIONS CORES`, with the
descriptor of a socket to the parent and the cores that it may use, `[]` for any. The function is
called once with the options and a callback for stages; it returns a greeting and a `JobHandler`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from objectives.process.guard import run_guarded
from objectives.process.messages import Message, decode, encode

_MAX_ERROR = 2000  # characters


class JobHandler(Protocol):
    """Does the jobs inside of a process; what they are is between it and the parent."""

    def work(self, job: Message) -> Message:
        """Do one job. Any exception becomes the job's error."""

    def usable(self) -> bool:
        """Tell, after an error, whether another job can be done in this process."""


StartHandler = Callable[[Message, Callable[[str], None]], tuple[Message, JobHandler]]


def main(arguments: list[str]) -> None:
    """Serve jobs, guarded, until the parent hangs up."""
    descriptor, target, options, cores = arguments
    if json.loads(cores):  # before anything counts them
        os.sched_setaffinity(0, json.loads(cores))
    for number in (signal.SIGINT, signal.SIGTERM):
        # Schedulers send them to all processes of a job. The parent decides: it may wait for the
        # trial in flight. Inherited, so that a compiler does not fail of it, either.
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a GPU crash would write gigabytes
    os.set_inheritable(int(descriptor), False)
    run_guarded(int(descriptor), lambda: serve(int(descriptor), target, json.loads(options)))


def serve(descriptor: int, target: str, options: Message) -> int:
    """Serve jobs until the parent hangs up. Returns the exit status."""
    _be_killed_first()
    connection = socket.socket(fileno=descriptor)

    def send(message: Message) -> None:
        connection.sendall(encode(message))

    module, _, function = target.partition(":")
    start_handler: StartHandler = getattr(importlib.import_module(module), function)
    greeting, handler = start_handler(options, lambda stage: send({"stage": stage}))
    send({"greeting": greeting})
    for line in connection.makefile("rb"):
        job, answer = decode(line), b""
        error: Message | None = None
        try:
            answer = encode({"result": handler.work(job)})
        except Exception as raised:  # the one place: whatever a trial raises is its outcome
            error = {"error": _described(raised), "memory": isinstance(raised, MemoryError)}
        # Here the exception is gone, and with it the frames that held its tensors.
        if error is None:
            connection.sendall(answer)
        else:
            usable = handler.usable()
            send(error | {"usable": usable})
            if not usable:
                return 1
    return 0


def _described(raised: Exception) -> str:
    try:
        text = str(raised)
    except Exception:  # whoever wrote the exception got that wrong as well
        text = "(it cannot be printed)"
    text = text[:_MAX_ERROR].encode(errors="backslashreplace").decode()
    return f"{type(raised).__name__}: {text}"


def _be_killed_first() -> None:
    """When memory runs out, let the kernel end this process rather than the one that records."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main(sys.argv[1:])
