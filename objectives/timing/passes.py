"""Timed passes over the consecutive steps of a run, each under other conditions of chance.

How long a step takes depends on the stream that launches it, on the addresses of its memory, and,
between steps, on their lengths. Streams and addresses change from pass to pass, so that a median
over passes averages over them. Figures: docs/measuring.md, "streams", "addresses" and "passes".
"""

from __future__ import annotations

import functools
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import fmean

import torch

from objectives.metrics.accuracy import TimedOutputs
from objectives.metrics.steps import run_steps_warm
from objectives.timing.affinity import CoreSelector
from objectives.timing.held_stream import HeldStream, Hold
from objectives.timing.sampling import quantile_of
from objectives.timing.streams import StreamRotation
from variants.layer.run import Run

HOLD_RETRIES = 4
STEPS_A_REFERENCE = 4  # at most
LEAST_PASSES = 6  # whose range is a 95 % interval of their median
# A captured step is captured again in one pass of so many, with so many of its neighbours: the
# others come one behind the other, as launches usually do.
ROUND, BLOCK = 3, 8


@dataclass(frozen=True, slots=True)
class StepTime:
    """The times of one step in one pass, in milliseconds."""

    gpu_ms: float
    host_ms: float
    reference_ms: float | None = None  # shortly before
    of_pass: int = 0  # or the first of its round, where steps are captured again
    index: int = 0  # in its pass
    gpu_counts: bool = True  # unless others of its round work at addresses of their own
    host_counts: bool = True  # unless it was captured just before: the host's caches are cold


class HeldPasses:
    """Passes over all steps of one run, each step behind a hold as long as it needs.

    Where the host takes longer than the GPU, launches are most of what the GPU does, and every
    pass, or round of passes, is on the next of several streams.

    How long products of few tokens take depends on the addresses that they read and write, so the
    inputs of every pass lie elsewhere. A captured step keeps its addresses for good: once in every
    round of passes it is captured again before it is run, for its GPU time. In the other passes
    its host time is taken: launching right behind a capture takes the host longer.
    """

    def __init__(
        self,
        run: Run,
        stream: HeldStream,
        host_reference: Callable[[], float] | None = None,
        outputs: TimedOutputs | None = None,
    ) -> None:
        """Time the steps of `run` on `stream`, and `host_reference` beside them, if given.

        What the steps return is kept in `outputs`, if given.
        """
        self._run, self._stream, self._hold = run, stream, Hold()
        self._outputs = outputs
        self._host_reference = host_reference
        self._streams = StreamRotation(stream.others, lambda: run_steps_warm(run))
        self._counted = self._launched = 0  # steps; of which the host took longer than the GPU
        self._places, self._moves = random.Random(0), run.moves
        self._passes = 0  # begun
        self._missed = 0  # passes without a sample that was held, one after the other

    @property
    def held(self) -> bool:
        """Whether the samples were taken behind a hold; false once that was given up."""
        return self._missed < HOLD_RETRIES

    def __call__(self) -> list[StepTime]:
        """Run all steps once and return those that count."""
        number = self._passes
        begins = number % ROUND == 0 or not self._captures_again
        with self._on_a_stream(begins=begins):
            return self._pass(lambda index: (index // BLOCK + number) % ROUND == 1)

    def turn(self) -> list[StepTime]:
        """Run all steps once, captured ones first captured again and then as they are.

        Returns those that count, of which there may be none.
        """
        with self._on_a_stream(begins=True):
            steps = self._pass(lambda index: True)
            if self._captures_again:
                as_they_are = self._pass(lambda index: False)
                if self._run.steps == 1:  # the first behind a capture takes the host a bit longer
                    as_they_are = self._pass(lambda index: False)
                steps += as_they_are
        return steps

    @property
    def _captures_again(self) -> bool:
        return self._moves and self._run.layer.execution.captures

    def _on_a_stream(self, *, begins: bool) -> AbstractContextManager[object]:
        """Make the stream of these passes current: the next one where something `begins`."""
        if 2 * self._launched <= self._counted:
            return nullcontext()
        return self._streams.next() if begins else self._streams.same()

    def _pass(self, captures: Callable[[int], bool]) -> list[StepTime]:
        if not self.held:
            self._hold.let_go()
        self._run.restart()
        number, self._passes = self._passes, self._passes + 1
        counted: list[StepTime] = []
        beside = None
        for index in range(self._run.steps):
            if self._host_reference is not None and index % STEPS_A_REFERENCE == 0:
                beside = self._host_reference()
            captured = self._move(index, captures)
            run_step = self._run.step if self._outputs is None else self._outputs.step
            step = functools.partial(run_step, index)
            gpu_ms, host_ms, held = self._stream.sample(step, self._hold)
            if self._outputs is not None:
                self._outputs.keep(index)
            if held or not self.held:
                in_rounds = self._captures_again
                counted.append(
                    StepTime(
                        gpu_ms,
                        host_ms,
                        beside,
                        of_pass=number - number % ROUND if in_rounds else number,
                        index=index,
                        gpu_counts=captured or not in_rounds,
                        host_counts=not captured,
                    )
                )
            if held:
                self._hold.expect(host_ms)
            elif self.held:
                self._hold.lengthen()
        if self.held:
            self._missed = 0 if counted else self._missed + 1
            usual = [step for step in counted if step.host_counts]
            self._counted += len(usual)
            self._launched += sum(step.host_ms > step.gpu_ms for step in usual)
        return counted

    def _move(self, index: int, captures: Callable[[int], bool]) -> bool:
        """Let the step `index` work elsewhere in its turn. Tells whether it was captured."""
        turn = captures(index) if self._run.layer.execution.captures else index == 0
        if not (turn and self._moves):
            return False
        try:
            return self._run.move(self._places.random())
        except torch.OutOfMemoryError:
            self._moves = False
            return False


def for_gpu(steps: Sequence[StepTime]) -> list[StepTime]:
    """Return those whose GPU times count, which are all where else there were none."""
    return [step for step in steps if step.gpu_counts] or list(steps)


def for_host(steps: Sequence[StepTime]) -> list[StepTime]:
    """Return those whose host times count, which are all where else there were none."""
    return [step for step in steps if step.host_counts] or list(steps)


def means_of_passes(steps: Sequence[StepTime]) -> list[float]:
    """Return the mean GPU time of each pass or round of which more than half counts, if any does.

    Not the median of steps: lengths differ in alignment, and with it in the kernel that runs, so
    that a median over them is a chance between kinds. A missing step counts as it usually takes.
    """
    counted = for_gpu(steps)
    usual = _usual(counted)
    if len(usual) < BLOCK:  # so few may all be of one kind
        usual = _usual(steps) | usual
    passes: defaultdict[int, dict[int, float]] = defaultdict(dict)
    for step in counted:
        passes[step.of_pass][step.index] = step.gpu_ms
    most = [one for one in passes.values() if 2 * len(one) > len(usual)] or passes.values()
    return [fmean((usual | one).values()) for one in most]


def gpu_ms_of_passes(steps: Sequence[StepTime]) -> list[float]:
    """Return the mean step of each pass or round, as `means_of_passes` does.

    Of few passes of several steps all steps are returned, about the median pass: passes alone do
    not tell their noise.
    """
    means, every = means_of_passes(steps), [step.gpu_ms for step in for_gpu(steps)]
    if len(means) >= LEAST_PASSES or len({step.index for step in steps}) <= 1:
        return means
    off = quantile_of(means, 0.5) - quantile_of(every, 0.5)
    return [gpu_ms + off for gpu_ms in every]


def _usual(steps: Sequence[StepTime]) -> dict[int, float]:
    """Return the median GPU time of each step of a pass, by its index."""
    apart: defaultdict[int, list[float]] = defaultdict(list)
    for step in steps:
        apart[step.index].append(step.gpu_ms)
    return {index: quantile_of(times, 0.5) for index, times in apart.items()}


def on_full_core(passes: HeldPasses, cores: CoreSelector) -> list[StepTime]:
    """Return the steps of a pass, launched from a core at full speed if there is one."""
    cores.settle()
    return passes()
