"""Where measuring processes run: each on a GPU, or on a set of CPU cores, of its own.

Several of them measure side by side on one machine. Each GPU gets CPU cores that no other uses,
so that launching from one does not slow down another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import psutil
import pynvml

from variants.device import DeviceKind
from variants.user_error import UserError

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_NODES = Path("/sys/devices/system/node")


class PlacementError(UserError):
    """The machine has not that many placements; the message says how many it has."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one measuring process runs: its name, environment variables and CPU cores."""

    name: str  # as `cuda:1`, or `cpu:0-7`
    variables: Mapping[str, str] = field(default_factory=dict)  # of its environment
    cores: tuple[int, ...] = ()  # empty: any


def placements(kind: DeviceKind, count: int | None) -> list[Placement]:
    """Return `count` placements on this machine, or all that it has.

    On CUDA there is one for each visible GPU, on a CPU one for each memory node, or for each of
    `count` equal shares of the cores. A single placement is the whole machine with its first GPU.

    Raises:
        PlacementError: There are not so many.
    """
    if kind == "cpu":
        return _of_cpu(count)
    visible = visible_gpus()
    if count is not None and count > max(1, len(visible)):
        raise PlacementError(
            f"at most {len(visible)}, one for each GPU that is visible; got {count}"
        )
    chosen = visible[:count]
    if len(chosen) < 2:  # the process says itself whether there is one
        return [Placement("cuda")]
    cores = shares([cores_near(gpu) for gpu in chosen])
    return [
        Placement(f"cuda:{place}", {_VISIBLE: gpu}, cores[place])
        for place, gpu in enumerate(chosen)
    ]


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA names them: an index or a UUID."""
    named = os.environ.get(_VISIBLE)
    if named is not None:
        names = (name.strip() for name in named.split(","))
        # As CUDA reads it: what is no device, as -1, ends the list.
        return list(takewhile(lambda name: name and not name.startswith("-"), names))
    try:
        pynvml.nvmlInit()
        return [str(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def nvml_handle(gpu: str) -> object:
    """Return NVML's handle of a GPU as CUDA names it; raises pynvml.NVMLError."""
    pynvml.nvmlInit()
    if gpu.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(gpu))
    return pynvml.nvmlDeviceGetHandleByUUID(gpu)


def foreign_gpu_processes(gpus: Sequence[str]) -> list[str]:
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


def shares(near: Sequence[frozenset[int]]) -> list[tuple[int, ...]]:
    """Divide CPU cores among placements, given the cores near each: equally, and none twice.

    Lanes that are near the same cores leave one more share of them to the process that proposes,
    where each still has two.
    """
    found: list[tuple[int, ...]] = [()] * len(near)
    taken: set[int] = set()
    for cores in dict.fromkeys(near):
        placements = [place for place, its in enumerate(near) if its == cores]
        free = sorted(cores - taken)
        size = len(free) // (len(placements) + 1)
        if size < 2:
            size = len(free) // len(placements)
        for turn, place in enumerate(placements):
            found[place] = tuple(free[turn * size : (turn + 1) * size])
            taken.update(found[place])
    return found


def _of_cpu(count: int | None) -> list[Placement]:
    allowed = os.sched_getaffinity(0)
    if count is None:
        nodes = [node & allowed for node in _memory_nodes()]
        sets = [sorted(node) for node in nodes if node] or [sorted(allowed)]
    else:
        if count > len(allowed):
            raise PlacementError(f"at most {len(allowed)}, one for each core; got {count}")
        size, cores = len(allowed) // count, sorted(allowed)
        sets = [cores[place * size : (place + 1) * size] for place in range(count)]
    if len(sets) == 1:
        return [Placement("cpu")]
    least = min(map(len, sets))  # as many threads in each
    return [Placement(f"cpu:{_listed(cores[:least])}", {}, tuple(cores[:least])) for cores in sets]


def cores_near(gpu: str) -> frozenset[int]:
    """Return the allowed cores on the GPU's side of the machine; all where NVML does not know."""
    allowed = frozenset(os.sched_getaffinity(0))
    try:
        words = pynvml.nvmlDeviceGetCpuAffinity(nvml_handle(gpu), max(allowed) // 64 + 1)
    except pynvml.NVMLError:
        return allowed
    near = {
        64 * place + bit
        for place, word in enumerate(words)
        for bit in range(64)
        if int(word) >> bit & 1
    }
    return allowed & near or allowed


def _memory_nodes() -> list[frozenset[int]]:
    paths = sorted(
        _NODES.glob("node[0-9]*/cpulist"),
        key=lambda path: int(path.parent.name.removeprefix("node")),
    )
    return [cores_in(path.read_text()) for path in paths]


def cores_in(text: str) -> frozenset[int]:
    """Read the kernel's list of cores, as `0-3,8`."""
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def _listed(cores: Sequence[int]) -> str:
    whole = cores[-1] - cores[0] + 1 == len(cores)
    return f"{cores[0]}-{cores[-1]}" if whole and len(cores) > 1 else ",".join(map(str, cores))
