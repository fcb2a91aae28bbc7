"""Passes over the consecutive steps of a run: what of a step's time is chance is varied here.

How long a step takes depends on the stream that launches it, on where in memory it works, and,
between steps, on their lengths.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from statistics import fmean
from typing import NamedTuple

import torch

from objectives.cores import Cores
from objectives.held_stream import HeldStream, Hold
from objectives.sampling import quantile_of
from objectives.streams import Turns
from objectives.visits import later_visits
from variants.run import Run

HOLD_RETRIES = 4
STEPS_A_YARDSTICK = 4  # at most
# How far on in memory a pass works: anywhere in a MiB, as the allocator aligns.
PLACE_BYTES, PLACES = 512, 2048


class StepTime(NamedTuple):
    """One step, in milliseconds."""

    number: int  # in its pass
    gpu_ms: float
    host_ms: float
    yardstick_ms: float | None = None  # shortly before
    captured: bool = False  # shortly before, which leaves the host's caches to others


class HeldPasses:
    """Passes over all steps of one run, each step behind a hold as long as it needs.

    Where the host takes longer than the GPU, launches are most of what the GPU does, and every
    pass is on the next of several streams.

    How long products of few tokens take depends on where in memory these lie: 5.0 to 7.5 µs on an
    H200. So every pass works elsewhere. A captured step keeps its addresses for good: every second
    one is captured again, and its own host time does not count.
    """

    def __init__(
        self, run: Run, stream: HeldStream, yardstick: Callable[[], float] | None = None
    ) -> None:
        """Nothing is known of the steps yet. Every few of them `yardstick` is taken, if given."""
        self._run, self._stream, self._hold = run, stream, Hold()
        self._yardstick = yardstick
        self._streams = Turns(stream.others, lambda: later_visits(run))
        self._counted = self._launched = 0  # steps; of which the host took longer than the GPU
        self._places: random.Random | None = random.Random(0)
        self._missed = 0  # passes without a sample that was held, one after the other

    @property
    def held(self) -> bool:
        """Whether the samples were taken behind a hold; false once that was given up."""
        return self._missed < HOLD_RETRIES

    def __call__(self) -> list[StepTime]:
        """Run all steps once and return those that count."""
        if not self.held:
            self._hold.let_go()
        launches_take_longest = 2 * self._launched > self._counted
        with self._streams.next() if launches_take_longest else nullcontext():
            counted = self._pass()
        if self.held:
            self._missed = 0 if counted else self._missed + 1
            usual = [step for step in counted if not step.captured]
            self._counted += len(usual)
            self._launched += sum(step.host_ms > step.gpu_ms for step in usual)
        return counted

    def _pass(self) -> list[StepTime]:
        self._run.restart()
        captures = self._run.layer.execution.captures
        counted: list[StepTime] = []
        beside = None
        for index in range(self._run.steps):
            moves = index % 2 == 1 if captures else index == 0
            captured = moves and self._work_elsewhere() and captures
            if self._yardstick is not None and index % STEPS_A_YARDSTICK == 0:
                beside = self._yardstick()
            step = functools.partial(self._run.step, index)
            gpu_ms, host_ms, held = self._stream.sample(step, self._hold)
            if held or not self.held:
                counted.append(StepTime(index, gpu_ms, host_ms, beside, captured))
            if held:
                self._hold.expect(host_ms)
            elif self.held:
                self._hold.lengthen()
        return counted

    def _work_elsewhere(self) -> bool:
        """Move what steps work on. False if there is no room beside what is timed."""
        if self._places is not None:
            try:
                self._run.move(PLACE_BYTES * self._places.randrange(PLACES))
            except torch.OutOfMemoryError:
                self._places = None
        return self._places is not None


def gpu_ms_of_passes(steps: Sequence[StepTime]) -> list[float]:
    """Return the mean step of each pass of which all steps were held, or as many as of any.

    Steps differ by their lengths: attention written out in bf16 took 0.74, 0.69 and 0.52 ms with
    8,193, 8,194 and 8,200 keys on an H200, and a median of them is a chance between kinds. Of a
    single pass the steps are returned, about their mean: it does not tell its noise.
    """
    passes: list[list[float]] = []
    for before, step in itertools.pairwise([None, *steps]):
        assert step is not None
        if before is None or step.number <= before.number:
            passes.append([])
        passes[-1].append(step.gpu_ms)
    longest = max(map(len, passes), default=0)
    whole = [one for one in passes if len(one) == longest]
    if len(whole) != 1:
        return [fmean(one) for one in whole]
    off = fmean(whole[0]) - quantile_of(whole[0], 0.5)
    return [gpu_ms + off for gpu_ms in whole[0]]


def host_ms_of(steps: Sequence[StepTime]) -> list[float]:
    """Return the host times that count: those of steps that were not captured just before."""
    return [step.host_ms for step in steps if not step.captured] or [
        step.host_ms for step in steps
    ]


def on_full_core(passes: HeldPasses, cores: Cores) -> list[StepTime]:
    """Return the steps of a pass, launched from a core at full speed if there is one."""
    cores.settle()
    return passes()
