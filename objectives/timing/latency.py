"""Latency of consecutive steps: GPU time behind a held stream, and host time beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from objectives.metrics.accuracy import TimedOutputs
from objectives.metrics.steps import run_steps_warm
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
    NoMonitor,
    SampleMonitor,
    Throttled,
    median_known,
    quantile_of,
    sample_until,
    summarise,
)
from variants.layer.run import Run

# Host noise is one-sided: whatever else runs adds to it. The same quantile is taken of the host
# references beside the steps, so that both are of the same share of them.
HOST_QUANTILE = 0.05
# Samples that such a low quantile needs to repeat within a few percent. Figures:
# docs/measuring.md, "quantile and count"; `python -m benchmarks.host_estimators` measures them.
HOST_COUNT = 256
# Where the GPU takes twice as long as the host, host time does not matter: fewer samples, as many
# as the GPU takes so many ms for, but some.
UNBOUND_MS, LEAST_COUNT = 128.0, 32
# Pauses before a trial beside which the host was disturbed is timed again: disturbances pass
# within seconds. Figures: docs/measuring.md, "disturbances".
PAUSES_S = (0.2, 0.5, 1.0)


class Timed(NamedTuple):
    """Samples of the steps of a run, and what the host reference took beside them."""

    gpu: Samples
    host: Samples
    held: bool
    reference_ms: float | None  # None where the stream was not held: a step waits for the GPU


def measure_cuda(
    run: Run,
    stream: HeldStream,
    *,
    budget_s: float,
    monitor: SampleMonitor,
    outputs: TimedOutputs | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Timed:
    """Return GPU and host samples of a step in ms, and the host reference beside them.

    What the steps return is kept in `outputs`, if given.

    Taken again where the host reference shows that the host is disturbed, a bounded number of
    times; those beside the least host reference count.

    Raises:
        Throttled: No sample counts.
    """
    passes = HeldPasses(run, stream, stream.host_reference, outputs)
    timed = _time(run, passes, stream, budget_s, monitor)
    for pause_s in PAUSES_S:
        if timed.reference_ms is None or not stream.recent_reference.is_exceeded(
            timed.reference_ms
        ):
            break
        sleep(pause_s)
        try:
            again = _time(run, passes, stream, budget_s, monitor)
        except Throttled:  # what was sampled before it was not
            break
        if again.reference_ms is not None and again.reference_ms < timed.reference_ms:
            timed = again
    if timed.reference_ms is not None:
        stream.recent_reference.add(timed.reference_ms)
    return timed


def _time(
    run: Run, passes: HeldPasses, stream: HeldStream, budget_s: float, monitor: SampleMonitor
) -> Timed:
    stream.warm()
    with stream.cores as cores:
        steps, stopped = sample_until(
            lambda: on_full_core(passes, cores), steps_known, budget_s=budget_s, monitor=monitor
        )
    layers = run.configuration.workload.layers
    host = for_host(steps)
    beside = [step.reference_ms for step in host if step.reference_ms is not None]
    return Timed(
        gpu=summarise(gpu_ms_of_passes(steps), stopped, layers=layers),
        host=summarise(
            [step.host_ms for step in host], stopped, quantile=HOST_QUANTILE, layers=layers
        ),
        held=passes.held,
        reference_ms=quantile_of(beside, HOST_QUANTILE) if passes.held and beside else None,
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


def measure_cpu(run: Run, outputs: TimedOutputs, *, budget_s: float) -> Samples:
    """Return samples of a step's wall time in ms. What the steps return is kept in `outputs`."""
    values, stopped = sample_until(
        lambda: run_steps_warm(run, outputs), median_known, budget_s=budget_s, monitor=NoMonitor()
    )
    return summarise(values, stopped, layers=run.configuration.workload.layers)


def measure_latency(
    run: Run,
    stream: HeldStream | None,
    *,
    first_step_ms: float,
    new_length: float | None,
    budget_s: float,
    monitor: SampleMonitor,
    outputs: TimedOutputs,
) -> Latency:
    """Sample the steps of `run`; `stream` is None on CPU. What they return is kept in `outputs`.

    Raises:
        Throttled: No sample counts.
    """
    others = {"first_step_ms": first_step_ms, "new_length_ms": new_length}
    if stream is None:
        samples = measure_cpu(run, outputs, budget_s=budget_s)
        return Latency.of(None, samples, held=None, **others)
    timed = measure_cuda(run, stream, budget_s=budget_s, monitor=monitor, outputs=outputs)
    return Latency.of(
        timed.gpu, timed.host, held=timed.held, yardstick_ms=timed.reference_ms, **others
    )
