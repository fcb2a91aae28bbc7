"""Throttling, with a scripted device in the place of NVML."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pynvml
import pytest

import objectives.evaluate as evaluate_module
from objectives.clocks import (
    LOWEST_SHARE,
    MAX_DISCARDED,
    MAX_PAUSE_S,
    ClocksUnreadError,
    NvmlClocks,
    Reading,
    Watch,
)
from objectives.evaluate import Evaluator
from objectives.evaluation import Outcome
from objectives.latency import (
    HOLD_RETRIES,
    WARM_SHARE,
    HeldPasses,
    Hold,
    StepTime,
    host_times,
    measure_cuda,
    on_full_core,
    raise_clock,
    steps_known,
)
from objectives.limits import Limits
from objectives.sampling import Throttled, Trusting
from tests.configurations import configured
from variants.detect import detect_device
from variants.workload import Phase, Workload

FINE = Reading(1980, 50, 0)
CAPPED = Reading(1200, 70, pynvml.nvmlClocksThrottleReasonSwPowerCap)
HOT = Reading(1100, 92, pynvml.nvmlClocksThrottleReasonHwThermalSlowdown)
SLOW = Reading(990, 40, 0)


class ScriptedClocks:
    def __init__(self, *readings: Reading | None) -> None:
        self._readings = iter(readings)
        self.busy = False

    def read(self) -> Reading:
        assert self.busy, "an idle device shows an idle clock"
        reading = next(self._readings)
        if reading is None:
            raise ClocksUnreadError("NVML: GPU is lost")
        return reading


def watched(*readings: Reading | None) -> tuple[Watch, list[float]]:
    clocks, pauses = ScriptedClocks(*readings), []

    @contextmanager
    def busy() -> Iterator[None]:
        clocks.busy = True
        yield
        clocks.busy = False

    return Watch(clocks, busy, usual_mhz=1980, sleep=pauses.append), pauses


@pytest.mark.parametrize(
    ("reading", "usual_mhz", "reasons"),
    [
        (FINE, 1980, ()),
        (CAPPED, 1980, ()),  # a heavy kernel always runs there
        (HOT, 1980, ("hw_thermal_slowdown",)),
        (SLOW, 1980, ("990 MHz where 1980 are usual",)),
        (SLOW, 990, ()),  # locked to that clock by the user
        (SLOW, int(990 / LOWEST_SHARE), ()),
    ],
)
def test_what_counts_as_throttling(
    reading: Reading, usual_mhz: int, reasons: tuple[str, ...]
) -> None:
    assert reading.throttling(usual_mhz) == reasons


def test_pauses_grow_to_a_limit_and_conditions_say_what_was_seen() -> None:
    watch, pauses = watched(FINE, *[HOT] * MAX_DISCARDED, CAPPED)
    assert watch.clean()
    for number in range(MAX_DISCARDED):
        assert not watch.gives_up, number
        assert not watch.clean()
    assert watch.gives_up
    assert pauses == sorted(pauses)
    assert len(pauses) == MAX_DISCARDED
    assert max(pauses) <= MAX_PAUSE_S
    assert "hw_thermal_slowdown, 92 °C) in 8 bursts" in watch.reason
    assert watch.clean()
    conditions = watch.conditions()
    assert conditions.sm_mhz == (1100, 1980)
    assert conditions.temperature_c == 92
    assert conditions.limits == ("hw_thermal_slowdown", "sw_power_cap")
    assert (conditions.discarded, conditions.unread) == (MAX_DISCARDED, "")


def test_a_device_that_can_no_longer_be_read_is_trusted_and_that_is_said() -> None:
    watch, _ = watched(FINE, None)
    assert [watch.clean() for _ in range(4)] == [True] * 4
    assert watch.conditions().unread == "NVML: GPU is lost"
    assert watch.conditions().sm_mhz == (1980, 1980)


def test_a_machine_without_nvml_or_the_device_says_so() -> None:
    with pytest.raises(ClocksUnreadError, match="NVML: "):
        NvmlClocks("GPU-00000000-0000-0000-0000-000000000000")


def test_a_trial_without_a_clean_sample_is_throttled(monkeypatch: pytest.MonkeyPatch) -> None:
    def throttled(*args: object, **kwargs: object) -> None:
        raise Throttled("the device throttled (hw_slowdown, 90 °C) in 8 bursts of samples")

    monkeypatch.setattr(evaluate_module, "measure_latency", throttled)
    evaluator = Evaluator(detect_device("cpu"), Limits(sampling_s=0.02), seed=0)
    tiny = Workload(batch=1, seq_len=32, new_tokens=2, q_heads=2, head_dim=16)
    evaluation = evaluator.evaluate(configured(tiny, "math fp32 static"))
    assert evaluation.outcome is Outcome.THROTTLED
    assert evaluation.reason.startswith("the device throttled (hw_slowdown")
    assert evaluation.measurements is None


def test_the_clock_is_raised_before_anything_is_timed_but_not_for_ever() -> None:
    shares = iter([0.2, 0.6, WARM_SHARE, 0.1])
    raise_clock(lambda: next(shares))
    assert next(shares) == 0.1
    ticks = iter(range(100))
    raise_clock(lambda: 0.2, now=lambda: next(ticks) * 0.02)
    assert next(ticks) < 10


class ScriptedStream:
    """Answers how long a step took and whether it was held, by how long the hold was."""

    def __init__(self, needs_ms: float) -> None:
        self.needs_ms = needs_ms
        self.holds: list[float] = []

    def sample(self, step: object, hold: Hold) -> tuple[float, float, bool]:
        self.holds.append(hold.ms)
        return 0.05, self.needs_ms, hold.ms > self.needs_ms

    def warm(self) -> None:
        pass


class Steps:
    def __init__(self, steps: int = 3, of: str = "decode") -> None:
        self.steps = steps
        workload = Workload(phase=Phase(of), batch=1, seq_len=64, layers=2)
        self.configuration = configured(workload, "math fp32")

    def restart(self) -> None:
        pass

    def step(self, index: int) -> None:
        pass


def test_holds_grow_until_they_outlast_the_host() -> None:
    stream = ScriptedStream(needs_ms=5.0)
    passes = HeldPasses(Steps(), stream)  # type: ignore[arg-type]
    taken = [step for _ in range(3) for step in passes()]
    assert passes.held
    assert taken == [StepTime(0.05, 5.0)] * 6  # three were not held, and do not count
    assert stream.holds[-1] == pytest.approx(2 * 5.0 + 0.15)


def test_a_step_that_cannot_be_held_is_timed_without_after_some_passes() -> None:
    passes = HeldPasses(Steps(), ScriptedStream(needs_ms=1e9))  # type: ignore[arg-type]
    assert [len(passes()) for _ in range(HOLD_RETRIES + 2)] == [0] * HOLD_RETRIES + [3, 3]
    assert not passes.held


def test_passes_that_are_missed_now_and_then_do_not_end_the_hold() -> None:
    stream = ScriptedStream(needs_ms=0.2)
    passes = HeldPasses(Steps(1), stream)  # type: ignore[arg-type]
    for number in range(60):
        stream.needs_ms = 0.6 if number % 3 == 1 else 0.2  # beyond the hold of a usual pass
        taken = passes()
        assert passes.held
        assert all(step.host_ms < stream.holds[-1] for step in taken)


def test_host_time_needs_more_samples_than_gpu_time_and_from_full_cores() -> None:
    assert not steps_known([StepTime(1.0, 1.5)] * 64)
    assert steps_known([StepTime(1.0, 1.5)] * 96)
    assert not steps_known([StepTime(1.0, 1.5, full=False)] * 300)
    assert steps_known([StepTime(1.0, 1.5, full=False)] * 300 + [StepTime(1.0, 1.5)] * 96)
    assert not steps_known([StepTime(float(i), 0.1) for i in range(96)])


def test_host_time_that_does_not_matter_needs_fewer() -> None:
    assert not steps_known([StepTime(1.0, 0.4)] * 16)
    assert steps_known([StepTime(1.0, 0.4)] * 32)
    assert not steps_known([StepTime(1.0, 0.6)] * 32)


class Speeds:
    """Cores whose speed is told."""

    def __init__(self, before: float, after: float) -> None:
        self.before, self.after = before, after

    def settle(self) -> float:
        return self.before

    def kept(self) -> float:
        return self.after


@pytest.mark.parametrize(
    ("before", "after", "speed", "full"),
    [
        (1.0, 1.0, 1.0, True),
        (0.96, 0.98, 0.97, True),
        (1.0, 0.5, 0.75, False),
        (0.6, 1, 0.8, False),
    ],
)
def test_steps_are_of_a_core_that_was_at_full_speed_before_and_after(
    before: float, after: float, speed: float, full: bool
) -> None:
    steps = on_full_core(lambda: [StepTime(1.0, 2.0)] * 2, Speeds(before, after))  # type: ignore[arg-type]
    assert steps == [StepTime(1.0, 2.0, pytest.approx(speed), full)] * 2


def test_host_times_are_those_of_full_cores_at_their_usual_clock() -> None:
    full = [StepTime(1.0, 2.0, 0.95)] * 20
    slow = [StepTime(1.0, 4.0, 0.5, full=False)] * 100
    disturbed = [StepTime(1.0, 2.0, 0.93)]  # the work, not the step: it is not the fastest
    assert host_times([*slow, *full, *disturbed]) == pytest.approx([1.9] * 21)


class OneSpeed(Speeds):
    """Cores, as a context, that are entered and left."""

    inside = 0

    def __enter__(self) -> OneSpeed:
        self.inside += 1
        return self

    def __exit__(self, *error: object) -> None:
        self.inside += 100


@pytest.mark.parametrize(
    ("of", "speed", "needs_ms", "expected", "held", "slow"),
    [
        ("decode", 0.95, 0.2, 0.19, True, False),  # as of full speed
        ("decode", 0.5, 0.2, 0.2, True, True),  # never on such a core: as it is
        ("decode", 0.95, 1e9, 1e9, False, False),  # it waits for the GPU, as `held` says
        ("train", 0.5, 0.2, 0.2, True, False),  # wherever its threads are
    ],
)
def test_what_a_trial_says_of_its_host(
    of: str, speed: float, needs_ms: float, expected: float, held: bool, slow: bool
) -> None:
    stream = ScriptedStream(needs_ms)
    stream.cores = OneSpeed(speed, speed)  # type: ignore[attr-defined]
    gpu, host, was_held, was_slow = measure_cuda(
        Steps(8, of),  # type: ignore[arg-type]
        stream,  # type: ignore[arg-type]
        budget_s=60.0,
        watch=Trusting(),
    )
    assert (gpu.value, host.value) == pytest.approx((2 * 0.05, 2 * expected))  # of two layers
    assert (was_held, was_slow) == (held, slow)
    assert stream.cores.inside == (0 if of == "train" else 101)  # type: ignore[attr-defined]


def test_of_too_few_on_full_cores_nothing_is_said() -> None:
    slow = [StepTime(1.0, 4.0, 0.5, full=False)] * 100
    assert host_times([*slow, *([StepTime(1.0, 2.0)] * 15)]) == []
