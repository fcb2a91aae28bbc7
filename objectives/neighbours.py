"""Who else uses the GPU. Asks NVML, which creates no CUDA context."""

from __future__ import annotations

import psutil
import pynvml


def other_gpu_processes() -> list[str]:
    """Describe the compute processes on the first GPU that are not descendants of this one.

    Empty where NVML or a GPU is missing: there is nothing to warn of then.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()
    ours = {psutil.Process().pid} | {p.pid for p in psutil.Process().children(recursive=True)}
    return [
        f"process {process.pid} ({(process.usedGpuMemory or 0) / 2**20:.0f} MiB)"
        for process in running
        if process.pid not in ours
    ]
