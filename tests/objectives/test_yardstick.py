"""The host's speed: what is timed beside the steps, and what it does to a latency."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from objectives.evaluate import Evaluator
from objectives.evaluation import Evaluation, Latency, Outcome, Samples
from objectives.host_speed import at_usual_speed
from objectives.limits import Limits
from objectives.roofline import DATASHEET, Peaks
from objectives.yardstick import YARDSTICK_QUANTILE, Yardstick, yardstick_of
from tests.configurations import configured
from tests.fake_bench import measurements
from variants.detect import detect_device
from variants.workload import Workload

CONFIGURATION = configured(Workload(batch=1, seq_len=64), "math fp32")
PEAKS = replace(DATASHEET["NVIDIA H100"], yardstick_ms=0.2)


def samples(value: float) -> Samples:
    return Samples(
        quantile=0.05,
        value=value,
        low=0.9 * value,
        high=1.2 * value,
        iqr=0.1 * value,
        count=128,
        stopped="precise",
    )


def taken(gpu_ms: float, host_ms: float, yardstick_ms: float | None) -> Evaluation:
    latency = Latency.of(
        samples(gpu_ms),
        samples(host_ms),
        held=True,
        yardstick_ms=yardstick_ms,
        first_step_ms=9.0,
        new_length_ms=0.5,
    )
    measured = measurements(1.0, 2.0).model_copy(update={"latency": latency})
    return Evaluation(configuration=CONFIGURATION, outcome=Outcome.MEASURED, measurements=measured)


def placed(evaluation: Evaluation, peaks: Peaks | None = PEAKS) -> Latency:
    found = at_usual_speed(evaluation, peaks).measurements
    assert found is not None
    return found.latency


@pytest.mark.parametrize(
    ("gpu_ms", "host_ms", "latency_ms", "bound"),
    [(0.3, 1.0, 0.5, "host"), (0.7, 1.0, 0.7, "gpu"), (2.0, 1.0, 2.0, "gpu")],
)
def test_host_time_is_that_of_the_usual_speed_and_what_binds_is_told_by_it(
    gpu_ms: float, host_ms: float, latency_ms: float, bound: str
) -> None:
    latency = placed(taken(gpu_ms, host_ms, yardstick_ms=0.4))  # twice what it usually takes
    assert latency.host_speed == 0.5
    assert latency.host == samples(host_ms).times(0.5)
    assert latency.gpu == samples(gpu_ms)
    assert (latency.latency_ms, latency.bound) == (pytest.approx(latency_ms), bound)
    assert latency.high_ms == pytest.approx(1.2 * latency_ms)
    kept = (latency.held, latency.yardstick_ms, latency.first_step_ms, latency.new_length_ms)
    assert kept == (True, 0.4, 9.0, 0.5)


@pytest.mark.parametrize(
    ("evaluation", "peaks"),
    [
        (taken(0.3, 1.0, None), PEAKS),  # as of a CPU, or where the stream was not held
        (taken(0.3, 1.0, 0.4), DATASHEET["NVIDIA H100"]),
        (taken(0.3, 1.0, 0.4), None),
        (Evaluation(configuration=CONFIGURATION, outcome=Outcome.CRASHED), PEAKS),
    ],
)
def test_where_the_speed_is_not_known_nothing_changes(
    evaluation: Evaluation, peaks: Peaks | None
) -> None:
    assert at_usual_speed(evaluation, peaks) == evaluation


def test_yardsticks_that_were_disturbed_do_not_count() -> None:
    assert YARDSTICK_QUANTILE == 0.1
    assert yardstick_of([0.3] * 3 + [0.9] * 10) == 0.3


def test_a_yardstick_takes_time_and_a_cpu_has_no_usual_one() -> None:
    assert 0 < Yardstick(torch.device("cpu"))() < 1e3
    evaluator = Evaluator(detect_device("cpu"), Limits(sampling_s=0.02), seed=0)
    peaks = evaluator.peaks()
    assert peaks.yardstick_ms is None
    assert peaks.half_tflops > 0


@pytest.mark.cuda
def test_the_usual_speed_of_a_gpus_host_is_that_of_its_trials() -> None:
    evaluator = Evaluator(detect_device("cuda"), Limits(), seed=0)
    before = torch.cuda.memory_allocated()
    usual_ms = evaluator.peaks().yardstick_ms
    assert torch.cuda.memory_allocated() == before
    evaluation = evaluator.evaluate(configured(Workload(batch=1, seq_len=512), "math fp32 static"))
    assert evaluation.measurements is not None
    beside_ms = evaluation.measurements.latency.yardstick_ms
    assert usual_ms is not None
    assert beside_ms is not None
    assert 0.2 < usual_ms / beside_ms < 5.0  # a busy host, not another piece of work
