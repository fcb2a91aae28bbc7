"""Helpers that compile ahead: the parent's side, one thread and one process for each.

A compiler's caches on disk serve all processes of a machine, so that what a helper compiled is
soon built by the one that measures. A helper is started between two jobs of the measuring process
and never by itself: at each job, that process is told whom to stop while it times something.
Whatever happens to a helper, no trial and no run ends of it.
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
from objectives.precompile.queue import Agenda
from objectives.process.client import JobFailed, Worker, WorkerError, WorkerUnavailable
from objectives.process.messages import Message
from objectives.process.placement import Lane
from variants.configuration import Configuration
from variants.device import DeviceKind
from variants.plugins import loaded_plugins

HOST_BYTES = 2 * 2**30  # that a process with torch and a compiler may need
MOST_DEATHS = 3  # of the helpers of a lane, one after the other, before no more are started
DRAIN_S = 20.0  # for compilations in flight, where a killed one would leave half a file behind
# Helpers are many; each one's own pool of compilers would take the cores of all others.
_ONE_THREAD = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}


def most_helpers(lane: Lane, lanes: int = 1) -> int:
    """Return how many helpers one of `lanes` has cores and memory for, beside what measures."""
    cores = len(lane.cores) or len(os.sched_getaffinity(0))
    room = psutil.virtual_memory().available // lanes // HOST_BYTES
    return max(0, min(cores - 1, room))


class Helper(Worker):
    """A worker that starts once: when a process may start is not its own to say."""

    def start(self) -> Message:
        """Start the process the first time, and return its greeting while it runs."""
        if self.start_seconds and (self._process is None or self._ended(0)):
            raise WorkerUnavailable("the helper has ended")
        return super().start()

    @property
    def place(self) -> tuple[int, int] | None:
        """Its session and the process group that may be stopped; None where there is none."""
        process, group = self._process, self.greeting.get("group")
        if process is None or not isinstance(group, int) or group == process.pid:
            return None
        return process.pid, group


class Ahead:
    """The helpers of one lane."""

    def __init__(
        self,
        agenda: Agenda,
        count: int,
        *,
        seed: int,
        device: DeviceKind | None = None,
        lane: Lane | None = None,
        deadline_s: float,
        target: str = "objectives.precompile.compile_handler:attach",
    ) -> None:
        """Name what to take work from, how many take it, and where. Nothing is started yet.

        `deadline_s` is that of a trial.
        """
        self.agenda = agenda
        self._count, self._target = count, target
        self._options: Message = {
            "seed": seed,
            "device": device,
            "helpers": count,
            "plugins": [plugin.model_dump() for plugin in loaded_plugins()],
        }
        lane = lane or Lane("")
        self._lane = replace(lane, variables={**lane.variables, **_ONE_THREAD})
        self._deadline_s = 2 * deadline_s  # it is stopped for a part of it
        self._helpers: dict[Helper, threading.Thread] = {}
        self._ending = False
        self._deaths = 0  # since a helper last compiled anything

    def ready(self) -> None:
        """Start the helpers that are missing. Call it while nothing is measured."""
        gone = [helper for helper, thread in self._helpers.items() if not thread.is_alive()]
        for helper in gone:
            del self._helpers[helper]
        while len(self._helpers) < self._count and self._deaths < MOST_DEATHS:
            helper = Helper(self._target, self._options, lane=self._lane)
            try:
                helper.start()
            except WorkerError:
                self._deaths += 1
                continue
            thread = threading.Thread(target=self._work, args=(helper,), daemon=True)
            self._helpers[helper] = thread
            thread.start()

    def _work(self, helper: Helper) -> None:
        """Have wishes compiled until the helper ends or nobody needs it."""
        try:
            while helper.pid is not None:
                configuration = self.agenda.take(lambda: self._ending)
                if configuration is None:
                    return
                self._compile(helper, configuration)
        finally:
            helper.kill()

    def _compile(self, helper: Helper, configuration: Configuration) -> None:
        seconds = None
        try:
            job = {"compile": configuration.model_dump(mode="json")}
            seconds = _seconds(helper.call(job, deadline_s=self._deadline_s))
            self._deaths = 0
        except JobFailed:
            self._deaths += helper.pid is None  # a trial will say why it failed
        except WorkerError:
            self._deaths += not self._ending
            helper.kill()
        finally:
            self.agenda.finish(configuration, seconds)

    def places(self) -> list[tuple[int, int]]:
        """Return the sessions and groups of all that run."""
        return [place for helper in list(self._helpers) if (place := helper.place) is not None]

    def go_on(self) -> None:
        """Let all go on: who stopped them may have died before it could."""
        signal_groups(self.places(), signal.SIGCONT)

    def release(self, *, drain: bool) -> bool:
        """End all helpers, so that their memory is free. Tells whether there were any.

        With `drain`, what is being compiled is waited for, but not for long.
        """
        if not self._helpers:
            return False
        self._ending = True
        self.go_on()
        self.agenda.wake()
        end = time.monotonic() + (DRAIN_S if drain else 0.0)
        for helper, thread in self._helpers.items():
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                helper.interrupt()
        for thread in self._helpers.values():
            thread.join()
        self._helpers.clear()
        self._ending = False
        return True


def _seconds(answer: Message) -> float | None:
    """Read what a helper answered; None where it compiled nothing."""
    seconds = answer.get("seconds")
    if isinstance(seconds, float) and 0 <= seconds < math.inf:
        return seconds
    return None


def ahead_of(
    lanes: Sequence[Lane],
    asked: int,
    agenda: Agenda,
    *,
    seed: int,
    device: DeviceKind | None,
    deadline_s: float,
) -> list[Ahead | None]:
    """Return the helpers of each lane, as many as were asked for or as it has room for.

    None where there are none.
    """
    counts = [min(asked, most_helpers(lane, len(lanes))) if asked else 0 for lane in lanes]
    return [
        Ahead(agenda, count, seed=seed, device=device, lane=lane, deadline_s=deadline_s)
        if count
        else None
        for lane, count in zip(lanes, counts, strict=True)
    ]


def why_fewer(asked: int, lanes: Sequence[Lane]) -> str:
    """Return why there are fewer helpers than were asked for; nothing where there are as many."""
    possible = min(most_helpers(lane, len(lanes)) for lane in lanes) if asked else 0
    if possible >= asked:
        return ""
    return (
        f"compiling ahead in {possible} processes for each device, not {asked}: no cores, or no "
        "memory, for more"
    )
