"""Who else uses the GPUs. Asks NVML, which creates no CUDA context."""

from __future__ import annotations

from collections.abc import Sequence

import psutil
import pynvml

from objectives.process.placement import nvml_handle


def other_gpu_processes(gpus: Sequence[str]) -> list[str]:
    """Describe the compute processes on GPUs, named as CUDA does, that this one did not start.

    Empty where NVML or a GPU is missing: there is nothing to warn of then.
    """
    try:
        running = [
            process
            for gpu in gpus
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(nvml_handle(gpu))
        ]
    except pynvml.NVMLError:
        return []
    ours = {psutil.Process().pid} | {p.pid for p in psutil.Process().children(recursive=True)}
    return [
        f"process {process.pid} ({(process.usedGpuMemory or 0) / 2**20:.0f} MiB)"
        for process in running
        if process.pid not in ours
    ]
