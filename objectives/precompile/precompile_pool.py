"""The pool of processes that compile ahead: the parent's side, one thread and process for each.

A compiler's caches on disk serve all processes of a machine, so that what one process compiled is
soon built by the one that measures. A compiling process is started between two jobs of the
measuring process and never by itself: with each job, the measuring process is told which processes
to stop while it times something. Whatever happens to a compiling process, no trial and no run ends
of it.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import psutil

from objectives.precompile.pause import signal_groups
from objectives.precompile.queue import CompileQueue
from objectives.process.client import (
    JobFailed,
    MeasurementProcess,
    ProcessError,
    ProcessUnavailable,
)
from objectives.process.messages import Message
from objectives.process.placement import Placement
from variants.configuration import Configuration
from variants.device import DeviceKind
from variants.plugins import loaded_plugins

HOST_BYTES = 2 * 2**30  # that a process with torch and a compiler may need
MOST_DEATHS = 3  # of the processes of a pool, one after the other, before no more are started
DRAIN_S = 20.0  # for compilations in flight, where a killed one would leave half a file behind
# Many processes compile side by side; a pool of compilers in each would take the others' cores.
_ONE_THREAD = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}


def most_processes(placement: Placement, placements: int = 1) -> int:
    """Return how many processes can compile beside the measuring one, by cores and memory.

    On one of so many `placements`, which share the machine's memory.
    """
    cores = len(placement.cores) or len(os.sched_getaffinity(0))
    room = psutil.virtual_memory().available // placements // HOST_BYTES
    return max(0, min(cores - 1, room))


class PrecompileProcess(MeasurementProcess):
    """A compiling process. It starts once: the pool decides when another may start."""

    def start(self) -> Message:
        """Start the process the first time, and return its greeting while it runs."""
        if self.start_seconds and (self._process is None or self._ended(0)):
            raise ProcessUnavailable("the compiling process has ended")
        return super().start()

    @property
    def group(self) -> tuple[int, int] | None:
        """Its session and the process group that may be stopped; None where there is none."""
        process, group = self._process, self.greeting.get("group")
        if process is None or not isinstance(group, int) or group == process.pid:
            return None
        return process.pid, group


class PrecompilePool:
    """The compiling processes of one placement, which take their work from a `CompileQueue`."""

    def __init__(
        self,
        queue: CompileQueue,
        count: int,
        *,
        seed: int,
        device: DeviceKind | None = None,
        placement: Placement | None = None,
        deadline_s: float,
        target: str = "objectives.precompile.compile_handler:start_handler",
    ) -> None:
        """Keep what to start; nothing is started yet.

        Args:
            queue: What to compile; pools of several placements share it.
            count: How many processes compile.
            seed: Of the inputs that are compiled with.
            device: The kind of device to compile for; CUDA if there is one, if not given.
            placement: Where the processes run.
            deadline_s: Of a trial. A compilation may take twice as long: it is stopped at times.
            target: What the processes run.
        """
        self.queue = queue
        self._count, self._target = count, target
        self._options: Message = {
            "seed": seed,
            "device": device,
            "processes": count,
            "plugins": [plugin.model_dump() for plugin in loaded_plugins()],
        }
        placement = placement or Placement("")
        self._placement = replace(placement, variables={**placement.variables, **_ONE_THREAD})
        self._deadline_s = 2 * deadline_s
        self._threads: dict[PrecompileProcess, threading.Thread] = {}
        self._ending = False
        self._deaths = 0  # since anything was compiled

    def ready(self) -> None:
        """Start the processes that are missing. Call it while nothing is measured."""
        gone = [process for process, thread in self._threads.items() if not thread.is_alive()]
        for process in gone:
            del self._threads[process]
        while len(self._threads) < self._count and self._deaths < MOST_DEATHS:
            process = PrecompileProcess(self._target, self._options, placement=self._placement)
            try:
                process.start()
            except ProcessError:
                self._deaths += 1
                continue
            thread = threading.Thread(target=self._work, args=(process,), daemon=True)
            self._threads[process] = thread
            thread.start()

    def _work(self, process: PrecompileProcess) -> None:
        """Have configurations compiled until the process ends or nobody needs it."""
        try:
            while process.pid is not None:
                configuration = self.queue.take(lambda: self._ending)
                if configuration is None:
                    return
                self._compile(process, configuration)
        finally:
            process.kill()

    def _compile(self, process: PrecompileProcess, configuration: Configuration) -> None:
        seconds = None
        try:
            job = {"compile": configuration.model_dump(mode="json")}
            seconds = _seconds(process.call(job, deadline_s=self._deadline_s))
            self._deaths = 0
        except JobFailed:
            self._deaths += process.pid is None  # a trial will say why it failed
        except ProcessError:
            self._deaths += not self._ending
            process.kill()
        finally:
            self.queue.finish(configuration, seconds)

    def groups(self) -> list[tuple[int, int]]:
        """Return the session and the process group of each process that runs."""
        return [group for process in list(self._threads) if (group := process.group) is not None]

    def resume(self) -> None:
        """Let all go on (SIGCONT): who stopped them may have died before it could."""
        signal_groups(self.groups(), signal.SIGCONT)

    def release(self, *, drain: bool) -> bool:
        """End all processes, so that their memory is free. Tells whether there were any.

        With `drain`, what is being compiled is waited for, but not for long.
        """
        if not self._threads:
            return False
        self._ending = True
        self.resume()
        self.queue.wake()
        end = time.monotonic() + (DRAIN_S if drain else 0.0)
        for process, thread in self._threads.items():
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                process.interrupt()
        for thread in self._threads.values():
            thread.join()
        self._threads.clear()
        self._ending = False
        return True


def _seconds(answer: Message) -> float | None:
    """Read what a compiling process answered; None where it compiled nothing."""
    seconds = answer.get("seconds")
    if isinstance(seconds, float) and 0 <= seconds < math.inf:
        return seconds
    return None


def precompile_pools(
    placements: Sequence[Placement],
    asked: int,
    queue: CompileQueue,
    *,
    seed: int,
    device: DeviceKind | None,
    deadline_s: float,
) -> list[PrecompilePool | None]:
    """Return a pool for each placement, of `asked` processes or as many as it has room for.

    None where it has room for none, or none was asked for.
    """
    counts = [
        min(asked, most_processes(placement, len(placements))) if asked else 0
        for placement in placements
    ]
    return [
        PrecompilePool(
            queue, count, seed=seed, device=device, placement=placement, deadline_s=deadline_s
        )
        if count
        else None
        for placement, count in zip(placements, counts, strict=True)
    ]


def why_fewer_processes(asked: int, placements: Sequence[Placement]) -> str:
    """Return why fewer processes compile than were asked for; empty where as many do."""
    if not asked:
        return ""
    possible = min(most_processes(placement, len(placements)) for placement in placements)
    if possible >= asked:
        return ""
    return (
        f"compiling ahead in {possible} processes for each device, not {asked}: no cores, or no "
        "memory, for more"
    )
