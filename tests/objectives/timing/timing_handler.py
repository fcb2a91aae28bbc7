"""A job handler that times nothing, but pauses processes as if it did, and tells when."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable

from objectives.precompile.pause import PausedProcesses
from objectives.process.messages import Message
from tests.objectives.trial.faulty_handler import ENVIRONMENT, failed, measured

TIMING = "TIMING_HANDLER"  # the variable that holds what it does, and the file that it writes


class TimingHandler:
    def __init__(self, report: Callable[[str], None], do: str, log: str) -> None:
        self._report, self._do, self._log = report, do, log

    def usable(self) -> bool:
        return True

    def work(self, job: Message) -> Message:
        with open(self._log, "a") as file:
            file.write(json.dumps(job.get("paused")) + "\n")
        self._report("build")
        result: Message = getattr(self, self._do)(job)
        return result

    def measures(self, job: Message) -> Message:
        with PausedProcesses(job.get("paused", ())):
            pass
        return measured(job["configuration"])

    def dies_while_paused(self, job: Message) -> Message:
        with PausedProcesses(job["paused"]):
            if job["paused"]:
                os.kill(os.getpid(), signal.SIGKILL)
        return measured(job["configuration"])

    def hangs_while_paused(self, job: Message) -> Message:
        with PausedProcesses(job["paused"]):
            time.sleep(600)
        return {}

    def lacks_memory_beside_others(self, job: Message) -> Message:
        """Out of memory while a compiling process of any job lives, told of or not."""
        with open(self._log) as file:
            told = [place for line in file for place in json.loads(line) or ()]
        if any(os.path.exists(f"/proc/{group}") for _, group in told):
            return failed(job["configuration"], "OUT_OF_MEMORY", "CUDA out of memory")
        return measured(job["configuration"])


def start_handler(
    options: Message, report: Callable[[str], None]
) -> tuple[Message, TimingHandler]:
    handler = TimingHandler(report, **json.loads(os.environ[TIMING]))
    return {"environment": json.loads(os.environ[ENVIRONMENT])}, handler
