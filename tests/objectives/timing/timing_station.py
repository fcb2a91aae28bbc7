"""A station that times nothing, but keeps quiet as if it did, and tells when."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable

from objectives.precompile.pause import Quiet
from objectives.process.messages import Message
from tests.objectives.trial.faulty_station import ENVIRONMENT, failed, measured

TIMING = "TIMING_STATION"  # the variable that holds what it does, and the file that it writes


class TimingStation:
    def __init__(self, report: Callable[[str], None], do: str, log: str) -> None:
        self._report, self._do, self._log = report, do, log

    def usable(self) -> bool:
        return True

    def work(self, job: Message) -> Message:
        with open(self._log, "a") as file:
            file.write(json.dumps(job.get("helpers")) + "\n")
        self._report("build")
        result: Message = getattr(self, self._do)(job)
        return result

    def measures(self, job: Message) -> Message:
        with Quiet(job.get("helpers", ())):
            pass
        return measured(job["configuration"])

    def dies_in_quiet(self, job: Message) -> Message:
        with Quiet(job["helpers"]):
            if job["helpers"]:
                os.kill(os.getpid(), signal.SIGKILL)
        return measured(job["configuration"])

    def hangs_in_quiet(self, job: Message) -> Message:
        with Quiet(job["helpers"]):
            time.sleep(600)
        return {}

    def lacks_memory_beside_helpers(self, job: Message) -> Message:
        """Out of memory while a helper of any job lives, told of or not."""
        with open(self._log) as file:
            told = [place for line in file for place in json.loads(line) or ()]
        if any(os.path.exists(f"/proc/{group}") for _, group in told):
            return failed(job["configuration"], "OUT_OF_MEMORY", "CUDA out of memory")
        return measured(job["configuration"])


def attach(options: Message, report: Callable[[str], None]) -> tuple[Message, TimingStation]:
    station = TimingStation(report, **json.loads(os.environ[TIMING]))
    return {"environment": json.loads(os.environ[ENVIRONMENT])}, station
