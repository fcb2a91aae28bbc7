"""The border between searching and measuring: one small protocol, and the bench that measures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from objectives.comparison import Comparison
from objectives.environment import Environment
from objectives.evaluation import Evaluation, Outcome
from objectives.isolation import Worker, WorkerError, WorkerTimedOut
from objectives.limits import Limits
from objectives.profile import Profile
from objectives.roofline import Peaks
from variants.configuration import Configuration
from variants.detect import DeviceMissingError
from variants.device import Device, DeviceKind
from variants.plugins import loaded_plugins


class Bench(Protocol):
    """What a search needs of measuring. A plain function or a recorded table can stand in."""

    def device(self) -> Device:
        """Return the facts of the device."""

    def environment(self) -> Environment:
        """Return what measurements of this bench are valid for."""

    def evaluate(self, configuration: Configuration) -> Evaluation:
        """Measure one configuration; whatever happens to it is an outcome."""

    def peaks(self) -> Peaks | None:
        """Measure the rates of the device's roofline; None where that fails."""

    def compare(self, configurations: Sequence[Configuration]) -> Comparison:
        """Time configurations in turns, the first against all others.

        What cannot be timed, alone or beside the first, is missing from it with the reason.
        """

    def profile(self, configuration: Configuration, folder: Path, prefix: str) -> Profile:
        """Profile one configuration; files are left in `folder`, their names begin with `prefix`.

        Raises:
            WorkerError: It cannot be profiled.
        """


class DeviceBench:
    """Measures on a real device, in a process that is replaced when it dies."""

    def __init__(
        self,
        limits: Limits,
        *,
        seed: int,
        device: DeviceKind | None = None,
        target: str = "objectives.station:attach",
        on_stage: Callable[[str], None] = lambda stage: None,
    ) -> None:
        """Name the device (None: CUDA if there is one). Nothing is started yet."""
        self._limits, self._on_stage = limits, on_stage
        options = {
            "limits": limits.model_dump(),
            "seed": seed,
            "device": device,
            # With their content: a file that changes during a run changes nothing here.
            "plugins": [plugin.model_dump() for plugin in loaded_plugins()],
        }
        self.worker = Worker(target, options)

    def environment(self) -> Environment:
        """Return the environment that the process reports.

        Raises:
            DeviceMissingError: This machine lacks the device asked for.
            WorkerError: The process does not come up.
        """
        greeting = self.worker.start()
        if "missing" in greeting:
            raise DeviceMissingError(greeting["missing"])
        return Environment.model_validate(greeting["environment"])

    def device(self) -> Device:
        """Return the facts of the device; raises as `environment` does."""
        return self.environment().device

    def evaluate(self, configuration: Configuration) -> Evaluation:
        """Measure one configuration in the process; its death and its errors are outcomes."""
        before = time.monotonic()
        job = {"configuration": configuration.model_dump(mode="json")}
        starts = sum(self.worker.start_seconds)
        try:
            answer = self.worker.call(
                job, deadline_s=self._limits.deadline_s, on_stage=self._on_stage
            )
        except WorkerError as error:
            timed_out = isinstance(error, WorkerTimedOut)
            outcome = Outcome.TIMED_OUT if timed_out else Outcome.CRASHED
            evaluation = Evaluation(
                configuration=configuration, outcome=outcome, reason=_one_line(error)
            )
        else:
            evaluation = Evaluation.model_validate(answer)
        # What the worker cannot see: its own start, a death, the transfer.
        started = sum(self.worker.start_seconds) - starts
        elsewhere = time.monotonic() - before - started - sum(evaluation.seconds.values())
        seconds = evaluation.seconds | {"transfer": max(0.0, elsewhere)}
        if started:
            seconds["worker start"] = started
        return evaluation.model_copy(update={"seconds": seconds})

    def peaks(self) -> Peaks | None:
        """Measure the device's rates in the process."""
        try:
            answer = self.worker.call({"peaks": True}, deadline_s=self._limits.deadline_s)
        except WorkerError:
            return None
        return Peaks(**answer)

    def compare(self, configurations: Sequence[Configuration]) -> Comparison:
        """Time configurations in turns in the process; where it dies, all are missing."""
        before = time.monotonic()
        job = {"compare": [each.model_dump(mode="json") for each in configurations]}
        # Each was built within the deadline of its trial.
        deadline_s = self._limits.deadline_s * len(configurations)
        try:
            answer = self.worker.call(job, deadline_s=deadline_s, on_stage=self._on_stage)
        except WorkerError as error:
            missing = {each.key: _one_line(error) for each in configurations}
            return Comparison(groups=(), missing=missing, seconds=time.monotonic() - before)
        return Comparison.model_validate(answer)

    def profile(self, configuration: Configuration, folder: Path, prefix: str) -> Profile:
        """Profile one configuration in the process; raises WorkerError where that fails."""
        job = {
            "profile": configuration.model_dump(mode="json"),
            "folder": str(folder.resolve()),
            "prefix": prefix,
        }
        answer = self.worker.call(job, deadline_s=self._limits.deadline_s, on_stage=self._on_stage)
        return Profile.model_validate(answer)

    def accepted_by_pytorch(self, configuration: Configuration) -> bool | None:
        """Return PyTorch's own answer to whether the backend takes it; None where it has none."""
        job = {"ask": configuration.model_dump(mode="json")}
        try:
            answer = self.worker.call(job, deadline_s=self._limits.deadline_s)
        except WorkerError:
            return None
        accepts: bool | None = answer["accepts"]
        return accepts

    def close(self) -> None:
        """End the process."""
        self.worker.close()


def _one_line(error: WorkerError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:500] if lines else type(error).__name__
