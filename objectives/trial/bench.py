"""The border between searching and measuring: the `Bench` protocol, and the one that measures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from objectives.in_model.schema import InModel, InModelJob
from objectives.precompile.precompile_pool import PrecompilePool
from objectives.process.client import (
    JobOutOfMemory,
    MeasurementProcess,
    ProcessError,
    ProcessOutOfMemory,
    ProcessTimedOut,
    ProcessUnavailable,
)
from objectives.process.messages import Message
from objectives.process.placement import Placement
from objectives.roofline.bound import Peaks
from objectives.schema.comparison import Comparison
from objectives.schema.environment import Environment
from objectives.schema.errors import first_error
from objectives.schema.evaluation import Evaluation, Outcome
from objectives.schema.limits import Limits
from objectives.schema.profile import Profile
from objectives.trial.deadlines import Deadlines
from variants.configuration import Configuration
from variants.detect import DeviceMissingError
from variants.device import Device, DeviceKind
from variants.plugins import loaded_plugins

IN_MODEL_DEADLINE_S = 3600.0  # to build a whole model, and for all answers that it gives


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
            ProcessError: It cannot be profiled.
        """

    def interrupt(self) -> None:
        """End what is measured, from another thread: it raises there. For good."""


class DeviceBench:
    """Measures on a real device, in a process that is replaced when it dies."""

    def __init__(
        self,
        limits: Limits,
        *,
        seed: int,
        device: DeviceKind | None = None,
        target: str = "objectives.trial.trial_handler:start_handler",
        on_stage: Callable[[str], None] = lambda stage: None,
        placement: Placement | None = None,
        precompile: PrecompilePool | None = None,
    ) -> None:
        """Keep what to start; nothing is started yet.

        Args:
            limits: What every trial is judged by.
            seed: Of weights, inputs and orders.
            device: The kind of device; CUDA if there is one, if not given.
            target: What the measuring process runs.
            on_stage: Is told each stage of a trial as it begins.
            placement: Where the measuring process runs.
            precompile: Compiles beside it, on the same placement.
        """
        self._limits, self._on_stage, self._precompile = limits, on_stage, precompile
        options = {
            "limits": limits.model_dump(),
            "seed": seed,
            "device": device,
            # With their content: a file that changes during a run changes nothing here.
            "plugins": [plugin.model_dump() for plugin in loaded_plugins()],
        }
        self.process = MeasurementProcess(target, options, self._welcome, placement)
        self._deadlines = Deadlines(limits.deadline_s)
        self._environment: Environment | None = None
        self._interrupted = False

    def environment(self) -> Environment:
        """Return the environment that the process reports.

        Raises:
            DeviceMissingError: This machine lacks the device asked for.
            ProcessError: The process does not come up.
        """
        if self._environment is None:
            self.process.start()
        assert self._environment is not None
        return self._environment

    def _welcome(self, greeting: Message) -> None:
        """Read the greeting of a new process: it must find what the first one found."""
        if "missing" in greeting:
            if self._environment is None:
                raise DeviceMissingError(greeting["missing"])
            raise ProcessUnavailable(f"the device is gone: {greeting['missing']}")
        here = Environment.model_validate(greeting["environment"])
        differences = [] if self._environment is None else self._environment.differences(here)
        if differences:
            raise ProcessUnavailable(f"the environment has changed: {'; '.join(differences)}")
        self._environment = here
        # Tried by the first process, for all that replace it.
        self.process.options["failed_quantizations"] = dict(here.device.failed_quantizations)

    def device(self) -> Device:
        """Return the facts of the device; raises as `environment` does."""
        return self.environment().device

    def evaluate(self, configuration: Configuration) -> Evaluation:
        """Measure one configuration in the process; its death and its errors are outcomes.

        What did not fit in memory is tried once more in a fresh process, unless it was one: what
        trials before it had left behind is not its own. Nor is what compiling processes held.

        Raises:
            DeviceMissingError: This machine lacks the device asked for.
            ProcessError: No process comes up, or on another device. No configuration is to blame.
        """
        before, starts = time.monotonic(), sum(self.process.start_seconds)
        waited = self._make_way(configuration)
        try:
            evaluation = self._attempt(configuration)
        except ProcessUnavailable:
            if not self._release():  # there may be no room beside compiling processes
                raise
            evaluation = self._attempt(configuration)
        spent = evaluation.seconds
        if not self._is_sure(evaluation):
            self.process.kill()
            evaluation = self._attempt(configuration)
            stages = spent.keys() | evaluation.seconds.keys()
            spent = {s: spent.get(s, 0.0) + evaluation.seconds.get(s, 0.0) for s in stages}
        if self._precompile is not None:
            self._precompile.queue.count(configuration, spent.get("first step", 0.0) + waited)
            spent = spent | {"ahead": waited}
        # What the measuring process cannot see: its own start, a death, the transfer.
        started = sum(self.process.start_seconds) - starts
        elsewhere = time.monotonic() - before - started - sum(spent.values())
        seconds = spent | {"transfer": max(0.0, elsewhere)}
        if started:
            seconds["worker start"] = started
        return evaluation.model_copy(update={"seconds": seconds})

    def _make_way(self, configuration: Configuration) -> float:
        """Claim a configuration from those that compile ahead. Returns the seconds of waiting."""
        if self._precompile is None:
            return 0.0
        before = time.monotonic()
        self._precompile.ready()
        self._precompile.queue.claim(configuration)
        return time.monotonic() - before

    def _is_sure(self, evaluation: Evaluation) -> bool:
        """Tell whether a failure is the configuration's own; end compiling processes if not."""
        outcome = evaluation.outcome
        if outcome not in _FOR_WANT_OF_MEMORY or evaluation.measurements is not None:
            return True
        was_beside = self._release()
        fresh = self.process.jobs == 1 or outcome is not Outcome.OUT_OF_MEMORY
        return fresh and not was_beside

    def _release(self) -> bool:
        """End the compiling processes until the next trial. Tells whether there were any."""
        if self._precompile is None:
            return False
        # A compiler for CPUs writes into the cache itself; that for GPUs puts whole files there.
        on_cpu = self._environment is not None and self._environment.device.kind == "cpu"
        return self._precompile.release(drain=on_cpu and not self._interrupted)

    def _call(
        self,
        job: Message,
        on_stage: Callable[[str], None] = lambda stage: None,
        stage_limit_s: Callable[[str], float] | None = None,
    ) -> Message:
        """Have a job done in which something is timed."""
        paused = {} if self._precompile is None else {"paused": self._precompile.groups()}
        try:
            return self.process.call(
                job | paused,
                deadline_s=self._limits.deadline_s,
                on_stage=on_stage,
                stage_limit_s=stage_limit_s,
            )
        finally:
            if self._precompile is not None:
                self._precompile.resume()  # whoever stopped them may have died

    def peaks(self) -> Peaks | None:
        """Measure the device's rates in the process."""
        try:
            answer = self._call({"peaks": True})
        except ProcessError:
            return None
        return Peaks(**answer)

    def compare(self, configurations: Sequence[Configuration]) -> Comparison:
        """Time configurations in turns in the process; where it dies, all are missing."""
        before = time.monotonic()
        self._release()  # the trials are over; more finalists fit into memory at once
        job = {"compare": [each.model_dump(mode="json") for each in configurations]}
        # Each was built within the deadline of its trial.
        deadline_s = self._limits.deadline_s * len(configurations)
        try:
            answer = self.process.call(job, deadline_s=deadline_s, on_stage=self._on_stage)
        except ProcessError as error:
            missing = {each.key: _one_line(str(error)) for each in configurations}
            return Comparison(groups=(), missing=missing, seconds=time.monotonic() - before)
        return Comparison.model_validate(answer)

    def profile(self, configuration: Configuration, folder: Path, prefix: str) -> Profile:
        """Profile one configuration in the process; raises ProcessError where that fails."""
        job = {
            "profile": configuration.model_dump(mode="json"),
            "folder": str(folder.resolve()),
            "prefix": prefix,
        }
        answer = self.process.call(
            job, deadline_s=self._limits.deadline_s, on_stage=self._on_stage
        )
        return Profile.model_validate(answer)

    def in_model(self, job: InModelJob) -> InModel:
        """Generate with default and winner in a whole model; raises ProcessError as `profile`."""
        answer = self.process.call(
            {"in_model": job.model_dump(mode="json")},
            deadline_s=IN_MODEL_DEADLINE_S,
            on_stage=self._on_stage,
        )
        return InModel.model_validate(answer)

    def _attempt(self, configuration: Configuration) -> Evaluation:
        device = self.device()
        try:
            answer = self._call(
                {"configuration": configuration.model_dump(mode="json")},
                self._on_stage,
                self._deadlines.of(configuration, device),
            )
            evaluation = _read(answer, configuration)
        except ProcessUnavailable:
            raise
        except ProcessError as error:
            known = (o for kind, o in _OUTCOMES.items() if isinstance(error, kind))
            return Evaluation(
                configuration=configuration,
                outcome=next(known, Outcome.CRASHED),
                reason=_one_line(str(error)) or type(error).__name__,
            )
        except ValueError as error:
            self.process.kill()
            reason = f"the measuring process answered with no evaluation: {error}"
            return Evaluation(
                configuration=configuration, outcome=Outcome.CRASHED, reason=_one_line(reason)
            )
        self._deadlines.learn(configuration, device, self._cold(evaluation))
        return evaluation.model_copy(update={"reason": _one_line(evaluation.reason)})

    def _cold(self, evaluation: Evaluation) -> Mapping[str, float]:
        """Return the seconds of the stages, as if nothing had been compiled ahead.

        Deadlines are learnt from them, and the next trial may have to compile for itself.
        """
        first, seconds = "first step", evaluation.seconds
        if self._precompile is None or first not in seconds:
            return seconds
        compiled = self._precompile.queue.compiled_in(evaluation.configuration) or 0.0
        return {**seconds, first: max(seconds[first], compiled)}

    def accepted_by_pytorch(self, configuration: Configuration) -> bool | None:
        """Return PyTorch's own answer to whether the backend takes it; None where it has none."""
        job = {"ask": configuration.model_dump(mode="json")}
        try:
            answer = self.process.call(job, deadline_s=self._limits.deadline_s)
        except ProcessError:
            return None
        accepts: bool | None = answer["accepts"]
        return accepts

    def interrupt(self) -> None:
        """End the process from another thread; what it measured raises `ProcessUnavailable`."""
        self._interrupted = True
        self.process.interrupt()

    def close(self) -> None:
        """End the measuring process, and those that compile ahead."""
        self._release()
        self.process.close()


# What a configuration may come to where others hold memory: not all libraries say what they lack.
_FOR_WANT_OF_MEMORY = (Outcome.OUT_OF_MEMORY, Outcome.CRASHED)
# Of a job without an answer; what is not listed CRASHED.
_OUTCOMES: Mapping[type[ProcessError], Outcome] = {
    ProcessTimedOut: Outcome.TIMED_OUT,
    ProcessOutOfMemory: Outcome.OUT_OF_MEMORY,
    JobOutOfMemory: Outcome.OUT_OF_MEMORY,
}


def _read(answer: Message, asked: Configuration) -> Evaluation:
    """Read an evaluation of what was asked.

    Raises:
        ValueError: It is none, of something else, or measured what is no number.
    """
    try:
        evaluation = Evaluation.model_validate(answer)
    except ValidationError as error:
        raise ValueError(first_error(error)) from None
    if evaluation.configuration != asked:
        raise ValueError(f"of {evaluation.configuration.key}")
    if evaluation.outcome is Outcome.MEASURED and evaluation.measurements is None:
        raise ValueError("it is MEASURED, and nothing was")
    return evaluation


def _one_line(text: str) -> str:
    """Return the first line that says something, without what would move a terminal's cursor."""
    lines = ("".join(c for c in line if c.isprintable()).strip() for line in text.splitlines())
    return next((line[:500] for line in lines if line), "")


def start_together(benches: Sequence[Bench]) -> Device:
    """Start the processes of all benches at once, and return the device of the first.

    What keeps another from starting is said when its turn comes.

    Raises:
        DeviceMissingError: This machine lacks the device asked for.
        ProcessError: The first process does not come up.
    """
    with ThreadPoolExecutor(len(benches)) as pool:
        starts = [pool.submit(bench.device) for bench in benches]
        try:
            wait(starts)
        except BaseException:  # Ctrl-C: who waits for a process is not to wait any longer
            for bench in benches:
                bench.interrupt()
            raise
    return starts[0].result()
