"""A compile handler that compiles nothing, and does to its process what its variable says.

Its stamps are the times, one a millisecond or so, at which it ran.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

from objectives.precompile import compile_handler
from objectives.process.messages import Message

TOY = "TOY_COMPILE_HANDLER"  # the variable that holds what it does and where it writes


class ToyCompileHandler:
    def __init__(self, do: str, folder: str, report: Callable[[str], None]) -> None:
        self._do, self._folder, self._report = do, folder, report

    def work(self, job: Message) -> Message:
        with open(os.path.join(self._folder, "jobs"), "a") as file:
            file.write(json.dumps(job["compile"]) + "\n")
        result: Message = getattr(self, self._do)()
        return result

    def usable(self) -> bool:
        return self._do != "fails_for_good"

    def compiles(self) -> Message:
        return {"seconds": 7.0}

    def fails(self) -> Message:
        raise RuntimeError("BackendCompilerFailed")

    def fails_for_good(self) -> Message:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def crashes(self) -> Message:
        os._exit(3)

    def hangs(self) -> Message:
        time.sleep(600)
        return {}

    def prints_garbage(self) -> Message:
        os.write(1, b"\xff\x00{]}\n" * 10_000)
        return {"seconds": 7.0}

    def sends_garbage(self) -> Message:
        send = self._report.__closure__[0].cell_contents  # type: ignore[attr-defined]
        send.__closure__[0].cell_contents.sendall(b"\x80\x04\x95pickle\n")
        time.sleep(600)
        return {}

    def answers_nonsense(self) -> Message:
        return {"seconds": "NaN"}

    def skips(self) -> Message:
        return {"skipped": "too large"}

    def stamps(self) -> Message:
        """Run, visibly, beside a compiler that does not end."""
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        with open(os.path.join(self._folder, "stamps"), "a", buffering=1) as file:
            while True:
                file.write(f"{time.monotonic()}\n")
                time.sleep(0.001)


def start_handler(
    options: Message, report: Callable[[str], None]
) -> tuple[Message, ToyCompileHandler]:
    toy = json.loads(os.environ[TOY])
    if toy["do"] == "does_not_start":
        raise RuntimeError("cannot start")
    greeting, _ = compile_handler.start_handler(options, report)
    return greeting, ToyCompileHandler(toy["do"], toy["folder"], report)
