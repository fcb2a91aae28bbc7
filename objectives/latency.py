"""Latency of consecutive steps: GPU time behind a held stream, and host time beside it.

A step of a few microseconds is launched slower than it runs, so plain event timing measures
the host. Here the stream is held by a spin until everything is enqueued: flush of the L2
cache, start event, the whole step, end event. What lies between the events then is GPU time
alone. A sample counts only if the hold outlasted the enqueueing.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import torch

from objectives.cores import Cores
from objectives.evaluation import Latency, Samples
from objectives.sampling import (
    MIN_COUNT,
    Throttled,
    Trusting,
    Watcher,
    median_known,
    quantile_of,
    sample_until,
    summarise,
)
from objectives.streams import Turns
from objectives.yardstick import Usual, Yardstick
from variants.run import Run

HOLD_RETRIES = 4
HOLD_MARGIN_MS = 0.15
MAX_HOLD_MS = 200.0  # bounds the spin, whatever the host does
# Host noise is one-sided: something else ran. Of the yardsticks beside the steps the same, so that
# both are of the same share of them.
HOST_QUANTILE = 0.05
# Between visits of an H100, host time by its yardstick differed by 6.0 % (standard deviation) with
# 56 samples, 3.0 % with 112, 1.8 % with 224.
HOST_COUNT = 256
# Where the GPU takes twice as long as the host, which does not matter then: what it does in so
# long, but some.
HOST_COUNT_UNBOUND, UNBOUND_MS, LEAST_COUNT = 128, 128.0, 32
STEPS_A_YARDSTICK = 4  # at most
LEAST_PASSES = 6  # whose range is a 95 % interval of their median
# How far on in memory a pass works: anywhere in a MiB, as the allocator aligns.
PLACE_BYTES, PLACES = 512, 2048
# Before a trial beside which the host was disturbed is timed again: one in twenty on an H100, and
# hardly ever the next one, a second later.
PAUSES_S = (0.2, 0.5, 1.0)
# An idle device lowers its clock (345 MHz where 1980 are usual, on an H200).
WARM_SHARE = 0.97  # of the clock that was calibrated
WARM_S = 0.1  # at most, before a step is timed


@dataclass
class Hold:
    """How long a step needs the stream to be held, learnt from the host times that it showed."""

    ms: float = 1.0

    def lengthen(self) -> None:
        """Hold longer: the last hold ended before the step was enqueued."""
        self.ms = min(MAX_HOLD_MS, 2 * self.ms + HOLD_MARGIN_MS)

    def let_go(self) -> None:
        """Hold no more: this step cannot be enqueued behind a hold."""
        self.ms = 0.0

    def expect(self, host_ms: float) -> None:
        """Set the hold to what a step that takes `host_ms` to enqueue needs."""
        self.ms = min(MAX_HOLD_MS, 2 * host_ms + HOLD_MARGIN_MS)


class HeldStream:
    """Times work on the current CUDA stream while the stream waits for the host."""

    def __init__(
        self,
        l2_bytes: int,
        cores: Cores | None = None,
        others: Sequence[torch.cuda.Stream] = (),
    ) -> None:
        """Allocate the flush buffer, twice the L2 cache, and calibrate the spin.

        `cores` are those that steps are launched from. Work is timed on the stream that is
        current; `others` may be made current, too.
        """
        self.cores = Cores() if cores is None else cores
        self.yardstick, self.usual = Yardstick(torch.device("cuda")), Usual()
        self.others = [functools.partial(torch.cuda.stream, one) for one in others]
        self._flush = torch.empty(2 * l2_bytes, dtype=torch.int8, device="cuda")
        self._cycles_per_ms = self._calibrate()

    def _calibrate(self) -> float:
        """Return how many cycles a millisecond has, once the clock has risen."""
        deadline = time.monotonic() + WARM_S
        rate = 0.0
        while time.monotonic() < deadline:
            rate = max(rate, self._spin(10_000_000))
        return rate

    def _spin(self, cycles: int) -> float:
        """Spin, and return how many cycles a millisecond had."""
        start, end = _events()
        start.record()
        torch.cuda._sleep(cycles)
        end.record()
        end.synchronize()
        return cycles / float(start.elapsed_time(end))

    def warm(self) -> None:
        """Keep the device busy until its clock is up, so that no step is timed on a cold one."""
        raise_clock(lambda: self._spin(1_000_000) / self._cycles_per_ms)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keep the device busy for two milliseconds, so that it can be read as it works."""
        torch.cuda._sleep(int(2 * self._cycles_per_ms))
        yield
        torch.cuda.synchronize()

    def sample(self, step: Callable[[], object], hold: Hold) -> tuple[float, float, bool]:
        """Run `step` once. Returns its GPU ms, its host ms, and whether the stream was held.

        A step that synchronises, or enqueues more than the launch queue takes, waits for the
        spin and is timed when the stream is free: not held.
        """
        held, (start, end) = torch.cuda.Event(), _events()
        torch.cuda._sleep(int(hold.ms * self._cycles_per_ms))
        held.record()
        self._flush.zero_()
        start.record()
        before = time.perf_counter_ns()
        step()
        host_ms = (time.perf_counter_ns() - before) / 1e6
        end.record()
        was_held = not held.query()
        end.synchronize()
        return float(start.elapsed_time(end)), host_ms, was_held


def raise_clock(share: Callable[[], float], *, now: Callable[[], float] = time.monotonic) -> None:
    """Call `share`, which spins and returns its clock's share of the usual one, until it is up."""
    deadline = now() + WARM_S
    while share() < WARM_SHARE and now() < deadline:
        pass


def _events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


def first_visits(run: Run, keep: Callable[[Mapping[str, torch.Tensor]], None]) -> list[float]:
    """Run every step once, handing its results to `keep`. Returns wall times in ms."""
    cuda = run.layer.device.type == "cuda"
    walls = []
    for index in range(run.steps):
        before = time.perf_counter_ns()
        out = run.step(index)
        if cuda:
            torch.cuda.synchronize()
        walls.append((time.perf_counter_ns() - before) / 1e6)
        keep(run.results(out))
        del out
    return walls


def later_visits(run: Run) -> list[float]:
    """Run every step again from the start. Returns wall times in ms."""
    run.restart()
    return first_visits(run, lambda results: None)


def new_length_ms(first: list[float], later: list[float]) -> float | None:
    """Return what the first visit to a length costs, at least, beyond a later one.

    The fastest first visit less the slowest later one: a plan or a graph that is built for each
    length costs every one of them, a busy machine only some. The very first step is left out:
    compilation and warm-up are in it. None for a single step.
    """
    if len(first) < 2:
        return None
    return max(0.0, min(first[1:]) - max(later[1:]))


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


class Timed(NamedTuple):
    """What was sampled of a run's steps."""

    gpu: Samples
    host: Samples
    held: bool
    yardstick_ms: float | None  # None where the stream was not held: a step waits for the GPU


def measure_cuda(
    run: Run,
    stream: HeldStream,
    *,
    budget_s: float,
    watch: Watcher,
    sleep: Callable[[float], None] = time.sleep,
) -> Timed:
    """Return GPU and host samples of a step in ms, and the yardstick beside them.

    Taken again where the yardstick shows that something is in the host's way, a bounded number of
    times; those beside the least yardstick count.

    Raises:
        Throttled: No sample counts.
    """
    passes = HeldPasses(run, stream, stream.yardstick)
    timed = _time(run, passes, stream, budget_s, watch)
    for pause_s in PAUSES_S:
        if timed.yardstick_ms is None or not stream.usual.is_exceeded(timed.yardstick_ms):
            break
        sleep(pause_s)
        try:
            again = _time(run, passes, stream, budget_s, watch)
        except Throttled:  # what was sampled before it was not
            break
        if again.yardstick_ms is not None and again.yardstick_ms < timed.yardstick_ms:
            timed = again
    if timed.yardstick_ms is not None:
        stream.usual.learn(timed.yardstick_ms)
    return timed


def _time(
    run: Run, passes: HeldPasses, stream: HeldStream, budget_s: float, watch: Watcher
) -> Timed:
    stream.warm()
    with stream.cores as cores:
        steps, stopped = sample_until(
            lambda: on_full_core(passes, cores), steps_known, budget_s=budget_s, watch=watch
        )
    layers = run.configuration.workload.layers
    beside = [step.yardstick_ms for step in steps if step.yardstick_ms is not None]
    return Timed(
        gpu=summarise(gpu_ms_of_passes(steps), stopped, layers=layers),
        host=summarise(host_ms_of(steps), stopped, quantile=HOST_QUANTILE, layers=layers),
        held=passes.held,
        yardstick_ms=quantile_of(beside, HOST_QUANTILE) if passes.held and beside else None,
    )


def on_full_core(passes: HeldPasses, cores: Cores) -> list[StepTime]:
    """Return the steps of a pass, launched from a core at full speed if there is one."""
    cores.settle()
    return passes()


def steps_known(steps: Sequence[StepTime]) -> bool:
    """Tell whether GPU time is known to within 1 %, and host time as well as it can be."""
    gpu = gpu_ms_of_passes(steps)
    in_a_pass = 1 + max(step.number for step in steps)
    if not median_known(gpu, max(LEAST_PASSES, math.ceil(MIN_COUNT / in_a_pass))):
        return False
    gpu_ms = quantile_of(gpu, 0.5)
    host_ms = quantile_of(host_ms_of(steps), HOST_QUANTILE)
    if 2 * host_ms >= gpu_ms:
        return len(steps) >= HOST_COUNT
    return len(steps) >= min(HOST_COUNT_UNBOUND, max(LEAST_COUNT, UNBOUND_MS / gpu_ms))


def measure_cpu(run: Run, *, budget_s: float) -> Samples:
    """Return samples of a step's wall time in ms."""
    values, stopped = sample_until(
        lambda: later_visits(run), median_known, budget_s=budget_s, watch=Trusting()
    )
    return summarise(values, stopped, layers=run.configuration.workload.layers)


def measure_latency(
    run: Run,
    stream: HeldStream | None,
    *,
    first_step_ms: float,
    new_length: float | None,
    budget_s: float,
    watch: Watcher,
) -> Latency:
    """Sample the steps of `run`; `stream` is None on CPU.

    Raises:
        Throttled: No sample counts.
    """
    others = {"first_step_ms": first_step_ms, "new_length_ms": new_length}
    if stream is None:
        return Latency.of(None, measure_cpu(run, budget_s=budget_s), held=None, **others)
    timed = measure_cuda(run, stream, budget_s=budget_s, watch=watch)
    return Latency.of(
        timed.gpu, timed.host, held=timed.held, yardstick_ms=timed.yardstick_ms, **others
    )
