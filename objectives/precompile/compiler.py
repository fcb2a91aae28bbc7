"""Compiles configurations into the compiler's caches on disk, where other processes find them."""

from __future__ import annotations

import gc
import time

import psutil
import torch
from torch._inductor.runtime.triton_heuristics import CachingAutotuner

from objectives.metrics.memory import settle
from objectives.process.messages import Message
from objectives.roofline.prior import predict
from variants.configuration import Configuration
from variants.detect import detect_device
from variants.layer.run import Run
from variants.plugins import PluginSource, load_plugin
from variants.precisions import settle_matmul_precision

# Of the memory that is free, what configurations that are being compiled may be expected to take,
# and of the device's, what they may take at most. Divided among the compiling processes.
FREE_SHARE = 0.5
WHOLE_SHARE = 0.5


class PrecompileError(RuntimeError):
    """A configuration cannot be compiled, or not run; a trial of it would say why."""


class Precompiler:
    """Builds configurations on this process's device and takes their steps, for nothing else."""

    def __init__(self, options: Message) -> None:
        """Find the device and bound what this process may hold of it."""
        for plugin in options["plugins"]:
            load_plugin(PluginSource.model_validate(plugin))
        # Which quantizations fail does not matter here: nobody wishes for what is refused.
        self._device = detect_device(options["device"], failed_quantizations={})
        self._torch_device = torch.device(self._device.kind)
        self._seed, self._processes = options["seed"], options["processes"]
        if self._device.kind == "cuda":
            torch.cuda.set_per_process_memory_fraction(WHOLE_SHARE / self._processes)
        settle_matmul_precision()
        CachingAutotuner.autotune_to_one_config = _take_the_first  # type: ignore[method-assign, assignment]

    def compile(self, configuration: Configuration) -> Message:
        """Take all steps once: every length that needs a graph of its own gets it."""
        one_layer = configuration.workload.model_copy(update={"layers": 1})
        expected = predict(configuration.model_copy(update={"workload": one_layer}), self._device)
        room_mib = FREE_SHARE / self._processes * self._free_bytes() / 2**20
        if expected.memory_mib > room_mib:
            return {"skipped": f"{expected.memory_mib:.0f} MiB of {room_mib:.0f} MiB"}
        before, failure = time.monotonic(), ""
        try:
            self._take_steps(configuration)
        except Exception as error:  # here and not outside: its traceback holds tensors
            failure = f"{type(error).__name__}: {error}"
        torch._dynamo.reset()
        gc.collect()
        settle()
        if failure:
            raise PrecompileError(failure)
        return {"seconds": time.monotonic() - before}

    def _take_steps(self, configuration: Configuration) -> None:
        run = Run(configuration, self._torch_device, self._seed)
        for index in range(run.steps):
            run.step(index)
        if self._device.kind == "cuda":
            torch.cuda.synchronize()

    def _free_bytes(self) -> int:
        if self._device.kind == "cuda":
            return torch.cuda.mem_get_info()[0]
        return psutil.virtual_memory().available

    def usable(self) -> bool:
        """Tell whether the device still works, after an error."""
        try:
            torch.ones(1, device=self._torch_device).add_(1).item()
        except RuntimeError:
            return False
        return True


def _take_the_first(kernel: CachingAutotuner, *args: object, **kwargs: object) -> None:
    """Launch a kernel in the first of the ways that were compiled for it.

    Inductor times all of them, which cannot be done where others keep the device busy, and keeps
    the fastest for everybody. Whoever measures finds that out. (Inductor's own switch for keeping
    it, `autotune_local_cache`, is written into the kernels: nobody would keep it then.)
    """
    kernel.launchers = kernel.launchers[:1]
