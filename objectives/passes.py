"""Passes over the consecutive steps of a run: what of a step's time is chance is varied here.

How long a step takes depends on the stream that launches it, on where in memory it works, and,
between steps, on their lengths.
"""

from __future__ import annotations

import functools
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import fmean

import torch

from objectives.cores import Cores
from objectives.held_stream import HeldStream, Hold
from objectives.sampling import quantile_of
from objectives.streams import Turns
from objectives.visits import later_visits
from variants.run import Run

HOLD_RETRIES = 4
STEPS_A_YARDSTICK = 4  # at most
LEAST_PASSES = 6  # whose range is a 95 % interval of their median
CAPTURING = 3  # captured steps are captured again in one pass of so many


@dataclass(frozen=True, slots=True)
class StepTime:
    """One step, in milliseconds."""

    gpu_ms: float
    host_ms: float
    yardstick_ms: float | None = None  # shortly before
    of_pass: int = 0
    index: int = 0  # in its pass
    behind_capture: bool = False  # which leaves the host's caches to others


class HeldPasses:
    """Passes over all steps of one run, each step behind a hold as long as it needs.

    Where the host takes longer than the GPU, launches are most of what the GPU does, and every
    pass is on the next of several streams.

    How long products of few tokens take depends on the addresses that they read and write: 5.0 to
    7.5 µs on an H200. So the inputs of every pass lie elsewhere. A captured step keeps its
    addresses for good: in some passes every one is captured again before it is run. GPU times of
    those count, and host times of the others: behind a capture an H200's host took 55 instead of
    32 µs to launch a step, and 38 µs for the one after that.
    """

    def __init__(
        self, run: Run, stream: HeldStream, yardstick: Callable[[], float] | None = None
    ) -> None:
        """Nothing is known of the steps yet. Every few of them `yardstick` is taken, if given."""
        self._run, self._stream, self._hold = run, stream, Hold()
        self._yardstick = yardstick
        self._streams = Turns(stream.others, lambda: later_visits(run))
        self._counted = self._launched = 0  # steps; of which the host took longer than the GPU
        self._places, self._has_room = random.Random(0), True
        self._passes = 0  # begun
        self._missed = 0  # passes without a sample that was held, one after the other

    @property
    def held(self) -> bool:
        """Whether the samples were taken behind a hold; false once that was given up."""
        return self._missed < HOLD_RETRIES

    def __call__(self) -> list[StepTime]:
        """Run all steps once and return those that count."""
        return self._one(capturing=self._passes % CAPTURING == 1)

    def turn(self) -> list[StepTime]:
        """Run all steps once, captured ones twice: captured again, and as they are then."""
        steps = self._one(capturing=True)
        if any(step.behind_capture for step in steps):
            steps += self._one(capturing=False)
        return steps

    def _one(self, *, capturing: bool) -> list[StepTime]:
        if not self.held:
            self._hold.let_go()
        launches_take_longest = 2 * self._launched > self._counted
        with self._streams.next() if launches_take_longest else nullcontext():
            counted = self._pass(capturing)
        if self.held:
            self._missed = 0 if counted else self._missed + 1
            usual = [step for step in counted if not step.behind_capture]
            self._counted += len(usual)
            self._launched += sum(step.host_ms > step.gpu_ms for step in usual)
        return counted

    def _pass(self, capturing: bool) -> list[StepTime]:
        self._run.restart()
        self._passes += 1
        counted: list[StepTime] = []
        beside = None
        for index in range(self._run.steps):
            if self._yardstick is not None and index % STEPS_A_YARDSTICK == 0:
                beside = self._yardstick()
            behind_capture = self._move(index, capturing)
            step = functools.partial(self._run.step, index)
            gpu_ms, host_ms, held = self._stream.sample(step, self._hold)
            if held or not self.held:
                counted.append(
                    StepTime(gpu_ms, host_ms, beside, self._passes, index, behind_capture)
                )
            if held:
                self._hold.expect(host_ms)
            elif self.held:
                self._hold.lengthen()
        return counted

    def _move(self, index: int, capturing: bool) -> bool:
        """Let the step `index` work elsewhere in its turn. Tells whether it was captured."""
        turn = capturing if self._run.layer.execution.captures else index == 0
        if not (turn and self._has_room):
            return False
        try:
            return self._run.move(self._places.random())
        except torch.OutOfMemoryError:
            self._has_room = False
            return False


def for_gpu(steps: Sequence[StepTime]) -> list[StepTime]:
    """Return those whose GPU times count: where steps were captured again, only they."""
    return [step for step in steps if step.behind_capture] or list(steps)


def for_host(steps: Sequence[StepTime]) -> list[StepTime]:
    """Return those whose host times count: not those that were captured just before."""
    return [step for step in steps if not step.behind_capture] or list(steps)


def gpu_ms_of_passes(steps: Sequence[StepTime]) -> list[float]:
    """Return the mean step of each pass that counts; one not held counts as it usually takes.

    Steps differ by their lengths: attention written out in bf16 took 0.74, 0.69 and 0.52 ms with
    8,193, 8,194 and 8,200 keys on an H200, and a median of them is a chance between kinds. Of few
    passes of several steps all steps are returned, about the median pass: passes alone do not tell
    their noise.
    """
    steps = for_gpu(steps)
    passes: defaultdict[int, dict[int, float]] = defaultdict(dict)
    apart: defaultdict[int, list[float]] = defaultdict(list)
    for step in steps:
        passes[step.of_pass][step.index] = step.gpu_ms
        apart[step.index].append(step.gpu_ms)
    usual = {index: quantile_of(times, 0.5) for index, times in apart.items()}
    means = [fmean(one.get(index, usual[index]) for index in usual) for one in passes.values()]
    if len(usual) <= 1 or len(means) >= LEAST_PASSES:
        return means
    every = [step.gpu_ms for step in steps]
    off = quantile_of(means, 0.5) - quantile_of(every, 0.5)
    return [gpu_ms + off for gpu_ms in every]


def on_full_core(passes: HeldPasses, cores: Cores) -> list[StepTime]:
    """Return the steps of a pass, launched from a core at full speed if there is one."""
    cores.settle()
    return passes()
