"""The job handler of the measuring process: finds its device, then measures configurations."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from objectives.precompile.pause import PausedProcesses
from objectives.process.messages import Message
from objectives.schema.environment import read_environment
from objectives.schema.limits import Limits
from objectives.trial.evaluator import Evaluator
from variants.configuration import Configuration
from variants.detect import DeviceMissingError, detect_device
from variants.plugins import PluginSource, load_plugin
from variants.sdpa_answers import sdpa_accepts

HOST_MEMORY_SHARE = 0.9  # of what is available: past it the kernel would kill something


class TrialHandler:
    """Does a `DeviceBench`'s jobs on the device of this process."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    def work(self, job: Message) -> Message:
        """Do the job that the message names, and return its result as JSON.

        One of: evaluate a `configuration`, `compare` several, `profile` or `ask` about one, or
        measure the device's `peaks`. `paused` are sessions and process groups of processes that
        are stopped while something is timed.
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
    return {"environment": environment.model_dump(mode="json")}, TrialHandler(evaluator)


def _limit_host_memory(limits: Limits) -> None:
    """Make an allocation that the machine has no room for fail, instead of ending the process."""
    allowed = psutil.virtual_memory().available * HOST_MEMORY_SHARE
    if limits.max_memory_gib is not None:
        allowed = min(allowed, (limits.max_memory_gib + 1) * 2**30)
    now = psutil.Process().memory_info().data
    resource.setrlimit(resource.RLIMIT_DATA, (int(now + allowed), resource.RLIM_INFINITY))
