"""The job handler of the measuring process: finds its device, then measures configurations."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from objectives.in_model.schema import InModel, InModelJob
from objectives.precompile.pause import PausedProcesses
from objectives.process.messages import Message
from objectives.schema.environment import read_environment
from objectives.schema.limits import Limits
from objectives.trial.evaluator import Evaluator
from variants.configuration import Configuration
from variants.detect import DeviceMissingError, detect_device
from variants.plugins import PluginSource, load_plugin
from variants.sdpa_answers import sdpa_accepts
from variants.user_error import UserError

HOST_MEMORY_SHARE = 0.9  # of what is available: past it the kernel would kill something


class TrialHandler:
    """Does a `DeviceBench`'s jobs on the device of this process."""

    def __init__(self, evaluator: Evaluator, on_stage: Callable[[str], None]) -> None:
        self._evaluator, self._on_stage = evaluator, on_stage

    def work(self, job: Message) -> Message:
        """Do the job that the message names, and return its result as JSON.

        One of: evaluate a `configuration`, `compare` several, `profile` or `ask` about one,
        generate with a winner `in_model`, or measure the device's `peaks`. `paused` are sessions
        and process groups of processes that are stopped while something is timed.
        """
        paused = PausedProcesses(job.get("paused", ()))
        if "ask" in job:
            asked = Configuration.model_validate(job["ask"])
            return {"accepts": sdpa_accepts(asked) if torch.cuda.is_available() else None}
        if "profile" in job:
            profiled = Configuration.model_validate(job["profile"])
            found = self._evaluator.profile(profiled, Path(job["folder"]), job["prefix"])
            profile: Message = found.model_dump(mode="json")
            return profile
        if "in_model" in job:
            in_model: Message = self._in_model(job["in_model"]).model_dump(mode="json")
            return in_model
        if "peaks" in job:
            with paused:
                peaks = self._evaluator.peaks()
            return dataclasses.asdict(peaks)
        if "compare" in job:
            several = [Configuration.model_validate(each) for each in job["compare"]]
            comparison: Message = self._evaluator.compare(several).model_dump(mode="json")
            return comparison
        configuration = Configuration.model_validate(job["configuration"])
        evaluation = self._evaluator.evaluate(configuration, paused)
        answer: Message = evaluation.model_dump(mode="json")
        return answer

    def _in_model(self, job: Message) -> InModel:
        """Measure in a whole model; what cannot be tried is told in a line."""
        try:
            from objectives.in_model.measure import measure_in_model
        except ImportError as error:  # transformers is optional
            return InModel(refused=str(error))
        evaluator = self._evaluator
        try:
            return measure_in_model(
                InModelJob.model_validate(job),
                evaluator.device.kind,
                evaluator.seed,
                self._on_stage,
            )
        except UserError as error:
            return InModel(refused=str(error))
        except torch.OutOfMemoryError as error:
            return InModel(refused=f"the model has no room, give fewer --layers: {error}"[:500])
        finally:
            evaluator.free(compiled=True)

    def usable(self) -> bool:
        """Tell whether the CUDA context still works. After an error on CPU it is not asked."""
        if self._evaluator.device.kind == "cpu":
            return False  # a new process costs little, and what the error left behind is unknown
        try:
            torch.ones(1, device="cuda").add_(1).item()
        except RuntimeError:
            return False
        return True


def start_handler(options: Message, on_stage: Callable[[str], None]) -> tuple[Message, Any]:
    """Find the device and warm it up. The greeting holds the environment, or why there is none."""
    for plugin in options["plugins"]:
        load_plugin(PluginSource.model_validate(plugin))
    try:
        device = detect_device(options["device"], options.get("failed_quantizations"))
    except DeviceMissingError as error:
        return {"missing": str(error)}, None
    limits = Limits.model_validate(options["limits"])
    if device.kind == "cpu":
        _limit_host_memory(limits)
    elif limits.max_memory_gib is not None:
        # A configuration may use the limit beyond what is there; so may the reference.
        share = min(1.0, (limits.max_memory_gib + 1) * 2**30 / device.memory_bytes)
        torch.cuda.set_per_process_memory_fraction(share)
    evaluator = Evaluator(device, limits, options["seed"], on_stage)
    environment = read_environment(device)
    greeting = {"environment": environment.model_dump(mode="json")}
    return greeting, TrialHandler(evaluator, on_stage)


def _limit_host_memory(limits: Limits) -> None:
    """Make an allocation that the machine has no room for fail, instead of ending the process."""
    allowed = psutil.virtual_memory().available * HOST_MEMORY_SHARE
    if limits.max_memory_gib is not None:
        allowed = min(allowed, (limits.max_memory_gib + 1) * 2**30)
    now = psutil.Process().memory_info().data
    resource.setrlimit(resource.RLIMIT_DATA, (int(now + allowed), resource.RLIM_INFINITY))
