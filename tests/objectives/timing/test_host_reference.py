"""The host's speed: what is timed beside the steps, and what it does to a latency."""

from __future__ import annotations

import pytest
import torch

from objectives.schema.comparison import Comparison, Retimed
from objectives.schema.evaluation import Evaluation, Latency, Outcome, Samples
from objectives.schema.limits import Limits
from objectives.timing.host_reference import HostReference
from objectives.timing.host_scaling import (
    STEEPNESS,
    at_full_speed,
    full_speed_of,
    turns_at_full_speed,
)
from objectives.trial.evaluator import Evaluator
from tests.configurations import configured
from tests.fake_bench import measurements
from variants.detect import detect_device
from variants.workload import Workload

CONFIGURATION, OTHER, THIRD = (
    configured(Workload(batch=1, seq_len=64), f"{backend} fp32")
    for backend in ("math", "efficient", "eager")
)
FULL_MS = 0.2  # of a yardstick
SPEED = 0.5**STEEPNESS  # where it takes twice as long


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


def placed(evaluation: Evaluation) -> Latency:
    found = at_full_speed(evaluation, FULL_MS).measurements
    assert found is not None
    return found.latency


@pytest.mark.parametrize(
    ("gpu_ms", "host_ms", "latency_ms", "bound"),
    [(0.3, 1.0, SPEED, "host"), (0.7, 1.0, 0.7, "gpu"), (2.0, 1.0, 2.0, "gpu")],
)
def test_host_time_is_that_of_full_speed_and_what_binds_is_told_by_it(
    gpu_ms: float, host_ms: float, latency_ms: float, bound: str
) -> None:
    latency = placed(taken(gpu_ms, host_ms, yardstick_ms=0.4))  # twice what it takes at full speed
    assert latency.host_speed == SPEED
    assert latency.host == samples(host_ms).times(SPEED)
    assert full_speed_of([latency]) == pytest.approx(FULL_MS)
    assert latency.gpu == samples(gpu_ms)
    assert (latency.latency_ms, latency.bound) == (pytest.approx(latency_ms), bound)
    assert latency.high_ms == pytest.approx(1.2 * latency_ms)
    kept = (latency.held, latency.yardstick_ms, latency.first_step_ms, latency.new_length_ms)
    assert kept == (True, 0.4, 9.0, 0.5)


@pytest.mark.parametrize(
    ("evaluation", "full_ms"),
    [
        (taken(0.3, 1.0, None), FULL_MS),  # as of a CPU, or where the stream was not held
        (taken(0.3, 1.0, 0.4), None),
        (Evaluation(configuration=CONFIGURATION, outcome=Outcome.CRASHED), FULL_MS),
    ],
)
def test_where_the_speed_is_not_known_nothing_changes(
    evaluation: Evaluation, full_ms: float | None
) -> None:
    assert at_full_speed(evaluation, full_ms) == evaluation


def test_full_speed_is_read_back_from_what_was_put_at_it() -> None:
    as_it_is = taken(0.3, 1.0, 0.4).measurements
    assert as_it_is is not None
    latencies = [as_it_is.latency, placed(taken(0.3, 1.0, 0.4))]
    assert full_speed_of(latencies) == pytest.approx(FULL_MS)
    assert full_speed_of(latencies[:1]) is None


def turns(*host_ms: float, held: bool | None = True) -> Comparison:
    group = tuple(
        Retimed(configuration=each, gpu_ms=(0.3,) * 3, host_ms=(0.9 * ms, ms, 5 * ms), held=held)
        for each, ms in zip((CONFIGURATION, OTHER, THIRD), host_ms, strict=True)
    )
    return Comparison(groups=(group,), seconds=1.0)


def trials(*host_ms: float) -> list[Evaluation]:
    found = []
    for each, ms in zip((CONFIGURATION, OTHER, THIRD), host_ms, strict=True):
        evaluation = at_full_speed(taken(0.3, ms, FULL_MS), FULL_MS)
        found.append(evaluation.model_copy(update={"configuration": each}))
    return found


def test_turns_are_put_at_the_speed_of_their_trials_all_of_a_group_alike() -> None:
    comparison = turns_at_full_speed(turns(2.0, 4.0, 8.0), trials(1.0, 2.2, 3.2))
    medians = [sorted(one.host_ms)[1] for one in comparison.groups[0]]
    assert medians == pytest.approx([1.0, 2.0, 4.0])  # twice as slow, whatever one trial says
    assert comparison.groups[0][0].host_ms == pytest.approx((0.9, 1.0, 5.0))
    assert all(one.gpu_ms == (0.3,) * 3 for one in comparison.groups[0])


@pytest.mark.parametrize(
    ("held", "of_trials"),
    [(True, [taken(0.3, 1.0, None)]), (True, []), (False, trials(1.0, 2.0, 3.0))],
)
def test_turns_whose_speed_is_not_known_stay_as_they_are(
    held: bool, of_trials: list[Evaluation]
) -> None:
    comparison = turns(2.0, 4.0, 8.0, held=held)
    assert turns_at_full_speed(comparison, of_trials) == comparison


def test_a_yardstick_takes_time_and_of_a_cpu_no_speed_is_told() -> None:
    assert 0 < HostReference(torch.device("cpu"))() < 1e3
    evaluator = Evaluator(detect_device("cpu"), Limits(sampling_s=0.02), seed=0)
    peaks = evaluator.peaks()
    assert peaks.yardstick_ms is None
    assert peaks.half_tflops > 0


@pytest.mark.cuda
def test_full_speed_of_a_gpus_host_is_that_of_its_trials_and_leaves_nothing_behind() -> None:
    evaluator = Evaluator(detect_device("cuda"), Limits(), seed=0)
    configuration = configured(Workload(batch=1, seq_len=512, q_heads=16), "math fp32 static")
    evaluator.evaluate(configuration)
    before = torch.cuda.memory_allocated()
    full_ms = evaluator.peaks().yardstick_ms
    assert torch.cuda.memory_allocated() == before
    measured = evaluator.evaluate(configuration).measurements
    assert full_ms is not None
    assert measured is not None
    assert measured.latency.yardstick_ms is not None
    assert 0.4 < full_ms / measured.latency.yardstick_ms < 2.5  # a busy host, not other work
