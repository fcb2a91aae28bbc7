"""Throttling, with a scripted device in the place of NVML."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pynvml
import pytest

import objectives.trial.evaluator as evaluate_module
from objectives.schema.evaluation import Outcome
from objectives.schema.limits import Limits
from objectives.timing.clocks import (
    LOWEST_SHARE,
    MAX_DISCARDED,
    MAX_PAUSE_S,
    ClocksUnreadError,
    NvmlClocks,
    Reading,
    ThrottleMonitor,
)
from objectives.timing.held_stream import WARM_SHARE, HeldStream, raise_clock
from objectives.timing.sampling import Throttled
from objectives.trial.evaluator import Evaluator
from tests.configurations import configured
from variants.detect import detect_device
from variants.workload import Workload

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


def watched(*readings: Reading | None) -> tuple[ThrottleMonitor, list[float]]:
    clocks, pauses = ScriptedClocks(*readings), []

    @contextmanager
    def busy() -> Iterator[None]:
        clocks.busy = True
        yield
        clocks.busy = False

    return ThrottleMonitor(clocks, busy, usual_mhz=1980, sleep=pauses.append), pauses


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
    monitor, pauses = watched(FINE, *[HOT] * MAX_DISCARDED, CAPPED)
    assert monitor.clean()
    for number in range(MAX_DISCARDED):
        assert not monitor.gives_up, number
        assert not monitor.clean()
    assert monitor.gives_up
    assert pauses == sorted(pauses)
    assert len(pauses) == MAX_DISCARDED
    assert max(pauses) <= MAX_PAUSE_S
    assert "hw_thermal_slowdown, 92 °C) in 8 bursts" in monitor.reason
    assert monitor.clean()
    conditions = monitor.conditions()
    assert conditions.sm_mhz == (1100, 1980)
    assert conditions.temperature_c == 92
    assert conditions.limits == ("hw_thermal_slowdown", "sw_power_cap")
    assert (conditions.discarded, conditions.unread) == (MAX_DISCARDED, "")


def test_a_device_that_can_no_longer_be_read_is_trusted_and_that_is_said() -> None:
    monitor, _ = watched(FINE, None)
    assert [monitor.clean() for _ in range(4)] == [True] * 4
    assert monitor.conditions().unread == "NVML: GPU is lost"
    assert monitor.conditions().sm_mhz == (1980, 1980)


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


def test_a_stream_is_warm_once_it_spins_as_fast_as_when_it_was_calibrated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("objectives.timing.held_stream.WARM_S", math.inf)
    stream = object.__new__(HeldStream)  # without its buffers on a device
    stream._cycles_per_ms = 1.98e6
    rates = iter([0.35e6, 1.2e6, 1.98e6, 1.98e6])
    stream._spin = lambda cycles: next(rates)  # type: ignore[method-assign]
    stream.warm()
    assert len([*rates]) == 1
