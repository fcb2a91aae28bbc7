"""The measuring process: a loop that does one job at a time for its parent.

Run as `python -m objectives.worker PARENT DESCRIPTOR MODULE:FUNCTION OPTIONS`, with the parent's
process id and the descriptor of a pipe to it. The function is called once with the options and a
callback for stages; it returns a greeting and a `Station`. Messages are JSON over that pipe, so
nothing that a library prints can be taken for an answer, and nothing is ever unpickled.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Protocol

Message = dict[str, Any]


class Station(Protocol):
    """What does the work inside the process."""

    def work(self, job: Message) -> Message:
        """Do one job. Any exception becomes the job's error."""

    def usable(self) -> bool:
        """Tell, after an error, whether another job can be done in this process."""


Attach = Callable[[Message, Callable[[str], None]], tuple[Message, Station]]


def main(arguments: list[str]) -> int:
    """Serve jobs until the parent hangs up. Returns the exit status."""
    parent, descriptor, target, options = arguments
    _die_with_parent(int(parent))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a GPU crash would write gigabytes
    connection = Connection(int(descriptor))

    def send(message: Message) -> None:
        connection.send_bytes(json.dumps(message).encode())

    module, _, function = target.partition(":")
    attach: Attach = getattr(importlib.import_module(module), function)
    greeting, station = attach(json.loads(options), lambda stage: send({"stage": stage}))
    send({"greeting": greeting})
    while True:
        try:
            job = json.loads(connection.recv_bytes())
        except EOFError:
            return 0
        error = None
        answer: Message = {}
        try:
            answer = {"result": station.work(job)}
        except Exception as raised:  # the one place: whatever a trial raises is its outcome
            error = f"{type(raised).__name__}: {raised}"
        # Here the exception is gone, and with it the frames that held its tensors.
        if error is not None:
            answer = {"error": error[:2000], "usable": station.usable()}
        send(answer)
        if not answer.get("usable", True):
            return 1


def _die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies, however it dies."""
    parent_death_signal = 1  # PR_SET_PDEATHSIG
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
