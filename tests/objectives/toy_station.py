"""Toy jobs for the worker: each does one thing that a trial could do to its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from objectives.worker import Message


class ToyStation:
    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._sick = False

    def work(self, job: Message) -> Message:
        self._report(f"doing {job['do']}")
        result = getattr(self, job["do"])(job)
        return {"pid": os.getpid(), "value": result}

    def usable(self) -> bool:
        return not self._sick

    def echo(self, job: Message) -> object:
        return job["value"]

    def fail(self, job: Message) -> None:
        raise ValueError(job["text"])

    def fail_sticky(self, job: Message) -> None:
        self._sick = True
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def sleep(self, job: Message) -> None:
        time.sleep(job["seconds"])

    def ignore_sigterm_and_sleep(self, job: Message) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)

    def spawn_and_hang(self, job: Message) -> None:
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        child = subprocess.Popen(command, start_new_session=True)
        self._report(f"child {child.pid}")
        time.sleep(60)

    def die_by_signal(self, job: Message) -> None:
        os.kill(os.getpid(), job["signal"])
        time.sleep(10)

    def exit(self, job: Message) -> None:
        print("the last words", flush=True)
        os._exit(3)

    def print_garbage(self, job: Message) -> str:
        os.write(1, b"\xff\x00{]}" * 10_000)
        os.write(2, b'{"result": {"value": "a lie"}}\n' * 100)
        return "truth"


def attach(options: Message, report: Callable[[str], None]) -> tuple[Message, ToyStation]:
    if options.get("refuse_to_start"):
        raise RuntimeError("cannot start")
    return {"hello": options}, ToyStation(report)
