"""Latency of consecutive steps: GPU time behind a held stream, and host time beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from objectives.metrics.steps import later_visits
from objectives.schema.evaluation import Latency, Samples
from objectives.timing.held_stream import HeldStream
from objectives.timing.passes import (
    LEAST_PASSES,
    HeldPasses,
    StepTime,
    for_host,
    gpu_ms_of_passes,
    means_of_passes,
    on_full_core,
)
from objectives.timing.sampling import (
    MIN_COUNT,
    Throttled,
    Trusting,
    Watcher,
    median_known,
    quantile_of,
    sample_until,
    summarise,
)
from variants.layer.run import Run

# Host noise is one-sided: something else ran. Of the yardsticks beside the steps the same, so that
# both are of the same share of them.
HOST_QUANTILE = 0.05
# Between visits of an H100, host time by its yardstick differed by 6.0 % (standard deviation) with
# 56 samples, 3.0 % with 112, 1.8 % with 224. In six trials on an H200 ten CUDA graphs were 12 %
# apart at most with 128 and 7 % with 256, of which this quantile repeated best.
HOST_COUNT = 256
# Where the GPU takes twice as long as the host, which does not matter then: no more than it does
# in so long, but some.
UNBOUND_MS, LEAST_COUNT = 128.0, 32
# Before a trial beside which the host was disturbed is timed again: one in twenty on an H100, and
# hardly ever the next one, a second later.
PAUSES_S = (0.2, 0.5, 1.0)


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
    host = for_host(steps)
    beside = [step.yardstick_ms for step in host if step.yardstick_ms is not None]
    return Timed(
        gpu=summarise(gpu_ms_of_passes(steps), stopped, layers=layers),
        host=summarise(
            [step.host_ms for step in host], stopped, quantile=HOST_QUANTILE, layers=layers
        ),
        held=passes.held,
        yardstick_ms=quantile_of(beside, HOST_QUANTILE) if passes.held and beside else None,
    )


def steps_known(steps: Sequence[StepTime]) -> bool:
    """Tell whether GPU time is known to within 1 %, and host time as well as it can be."""
    lengths = {step.index for step in steps}
    if len(lengths) > 1 and len(means_of_passes(steps)) < LEAST_PASSES:
        return False
    gpu = gpu_ms_of_passes(steps)
    if not median_known(gpu, math.ceil(MIN_COUNT / len(lengths))):
        return False
    gpu_ms, host = quantile_of(gpu, 0.5), [step.host_ms for step in for_host(steps)]
    count: float = HOST_COUNT
    if 2 * quantile_of(host, HOST_QUANTILE) < gpu_ms:
        count = min(count, max(LEAST_COUNT, UNBOUND_MS / gpu_ms))
    return len(host) >= count


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
