"""Drift, from anchors of known values; and when a run measures them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from optuna.storages import InMemoryStorage

from objectives.roofline.bound import DATASHEET, Peaks
from objectives.schema.evaluation import Conditions, Evaluation, Outcome
from objectives.timing.host_scaling import STEEPNESS
from studies.results.facts import facts
from studies.results.results import Results, as_table, read_results
from studies.study.anchor import (
    EVERY,
    AnchorPoint,
    DriftMarks,
    anchor_configuration,
    anchors_of,
    disagreements,
    drifts,
)
from studies.study.device_peaks import has_peaks, peaks_of_study
from tests.fake_bench import FakeBench
from tests.studies.session.test_session import run, session
from variants.configuration import Configuration
from variants.device import DEVICE_PROFILES

ONE = {"batch": (1,), "seq_len": (512,), "score_mod": ("none",)}


def points(*values: float | None, spread: float = 0.01) -> list[AnchorPoint]:
    return [
        AnchorPoint(
            before_trial=EVERY * index,
            value_ms=value,
            low_ms=None if value is None else value * (1 - spread),
            high_ms=None if value is None else value * (1 + spread),
        )
        for index, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ((), {}),
        ((1.0,), {}),
        ((1.0, 1.03, 0.98), {}),  # as it repeats
        ((1.0, 1.0, 1.2, 1.0), {50: 1.2}),
        ((1.1, 1.0, 1.0, 1.0), {0: 1.1}),  # a cold start is drift, too
        ((1.0, None, 1.2, 1.0, 1.0), {50: 1.2}),
        ((1.0, 1.0, 1.0, 2.0, 2.0), {75: 2.0, 100: 2.0}),
    ],
)
def test_drift_is_what_is_away_from_the_median_of_all(
    values: tuple[float | None, ...], found: dict[int, float]
) -> None:
    seen = {drift.before_trial: drift.ratio for drift in drifts(points(*values), "cuda")}
    assert seen == pytest.approx(found)


def test_an_interval_that_holds_the_median_is_noise_and_a_cpu_has_more_of_it() -> None:
    assert drifts(points(1.0, 1.0, 1.2, spread=0.3), "cuda") == []
    assert drifts(points(1.0, 1.0, 1.2), "cpu") == []
    assert len(drifts(points(1.0, 1.0, 1.4), "cpu")) == 1


def test_the_trials_on_both_sides_of_a_drifted_anchor_are_marked() -> None:
    taken = points(1.0, 1.0, 1.2, 1.0, 1.0)
    found = drifts(taken, "cuda")
    marks = DriftMarks(taken, found)
    marked = [t for t in range(110) if marks.at(t, "") is not None]
    assert marked == list(range(25, 75))


def of_devices(**values: float | None) -> list[AnchorPoint]:
    return [
        AnchorPoint(before_trial=0, value_ms=value, measured_on=device.rstrip("_"))
        for device, value in values.items()
    ]


@pytest.mark.parametrize(
    ("taken", "here", "left_out"),
    [
        ({}, "a", {}),
        ({"a": 1.0}, "a", {}),
        ({"a": 1.0, "b": 1.019}, "ab", {}),
        ({"a": 1.0, "b": 1.021}, "ab", {"b": "1.021"}),
        ({"a": 1.0, "b": 0.9, "c": 1.0}, "abc", {"b": "0.900"}),
        # The study's devices decide, however many come.
        ({"a": 1.0, "b": 1.1, "c": 1.1}, "bc", {"b": "1.100", "c": "1.100"}),
        ({"a": 1.0, "b": 1.1, "c": 1.1}, "a", {"a": "0.909"}),
        ({"a": 1.0, "b": 1.1}, "a", {"a": "0.909"}),
        # The median of the newest three of each.
        ({"a": 1.0, "b": 1.1, "b_": 1.0}, "ab", {"b": "1.050"}),
        ({"a": 1.0, "b": 1.1, "b_": 1.0, "b__": 1.01}, "ab", {}),
        ({"a": 1.0, "b": 1.1, "b_": 1.1, "b__": 1.0, "b___": 1.01, "b____": 1.0}, "ab", {}),
        # What cannot be measured says nothing.
        ({"a": 1.0, "b": None}, "ab", {}),
    ],
)
def test_devices_of_a_run_that_disagree_with_the_study(
    taken: dict[str, float | None], here: str, left_out: dict[str, str]
) -> None:
    found = disagreements(of_devices(**taken), set(here), "cuda")
    assert found.keys() == left_out.keys()
    for device, ratio in left_out.items():
        said = f"{device} is left out: one and the same configuration takes {ratio} times as long"
        assert found[device].startswith(said)
        assert "agree within 2%" in found[device]
    assert disagreements(of_devices(**taken), set(here), "cpu") == {}  # whose noise is larger


def test_the_anchor_is_the_same_in_every_study_of_a_device() -> None:
    for profile in DEVICE_PROFILES.values():
        anchor = anchor_configuration(profile.device)
        assert anchor == anchor_configuration(profile.device)
        assert anchor.variant.backend == "flash"
    old = DEVICE_PROFILES["h100"].device.model_copy(update={"capability": (7, 0)})
    assert anchor_configuration(old).variant.precision == "fp16"


class DriftingBench(FakeBench):
    """From some call on, the device takes longer for everything."""

    def __init__(self, *, after: int) -> None:
        super().__init__()
        self._after = after

    def _answer(self, configuration: Configuration) -> Evaluation:
        found = super()._answer(configuration)
        if len(self.calls) <= self._after or found.measurements is None:
            return found
        gpu = found.measurements.latency.gpu
        assert gpu is not None
        slower = gpu.model_copy(
            update={name: getattr(gpu, name) * 1.2 for name in ("value", "low", "high")}
        )
        latency = found.measurements.latency.model_copy(update={"gpu": slower})
        measured = found.measurements.model_copy(update={"latency": latency})
        return found.model_copy(update={"measurements": measured})


@pytest.mark.parametrize(("budget", "stop"), [(2 * EVERY + 5, 999), (999, 2 * EVERY + 5)])
def test_a_run_anchors_at_first_every_so_often_and_at_last(budget: int, stop: int) -> None:
    bench = FakeBench()
    of = session(InMemoryStorage(), bench, sampler="random")
    list(of.baselines.measure_missing())
    asked = itertools.count()
    found = list(of.trials(of.workers[0], budget, lambda: next(asked) < stop))
    assert len(found) == 2 * EVERY + 5
    assert [point.before_trial for point in anchors_of(of.study)] == [0, 25, 50, 55]
    assert of.calibration.measure_if_due(last=True) is None  # nothing came between
    anchor = anchor_configuration(of.workers[0].bench.device()).key
    assert bench.calls.count(anchor) == 4
    assert read_results(of.study).drifts == []
    # A later run begins with an anchor of its own.
    again = session(InMemoryStorage(), bench, sampler="random")
    again.calibration.measure_if_due()
    assert len(anchors_of(again.study)) == 1


def test_marked_trials_are_told_in_the_table() -> None:
    of = session(InMemoryStorage(), DriftingBench(after=58), axes=ONE, sampler="random")
    run(of, 0)
    for _ in range(2 * EVERY + 5):
        of.calibration.measure_if_due()
        of.trial()
    of.calibration.measure_if_due(last=True)
    results = read_results(of.study)
    (drift,) = results.drifts
    assert (drift.before_trial, drift.ratio) == (55, pytest.approx(1.2))
    table = as_table(results)
    marked = table[table["drift"].notna()]["trial"].tolist()
    assert marked == list(range(50, 55))
    (note,) = _saying("speed", results)
    assert note.startswith(
        "the machine's speed changed: one and the same configuration took up to"
    )
    assert "1.20× as long" in note
    assert "5 of 55 trials may be off" in note


def _saying(word: str, results: Results) -> list[str]:
    return [fact for fact in facts(results) if word in fact]


def test_an_anchor_that_fails_is_stored_with_its_reason() -> None:
    bench = FakeBench(fails={"flash": Outcome.CRASHED})
    of = session(InMemoryStorage(), bench, axes=ONE)
    point = of.calibration.measure_if_due()
    assert point is not None
    assert (point.value_ms, point.reason) == (None, "as planned")
    assert drifts(anchors_of(of.study), "cuda") == []
    (note,) = _saying("drift", read_results(of.study))
    assert note.endswith("goes unseen: as planned")


def test_rates_are_measured_once_for_a_study_and_every_trial_is_placed_under_them() -> None:
    class Counting(FakeBench):
        asked = 0

        def peaks(self):  # type: ignore[no-untyped-def]
            Counting.asked += 1
            return super().peaks()

    storage = InMemoryStorage()
    for _ in range(2):
        of = session(storage, Counting(), axes=ONE)
        run(of, 3)
    assert Counting.asked == 1
    assert has_peaks(of.study)
    assert peaks_of_study(of.study) == FakeBench().peaks()
    results = read_results(of.study)
    for evaluation in (*results.defaults, *(told.evaluation for told in results.trials)):
        assert evaluation.measurements is not None
        assert evaluation.measurements.roofline is not None
        assert evaluation.measurements.roofline.rates == "measured"


def test_host_times_of_trials_are_those_of_the_studys_full_speed() -> None:
    class Slow(FakeBench):
        def peaks(self) -> Peaks:
            return replace(DATASHEET["NVIDIA H100"], yardstick_ms=0.3)

        def _answer(self, configuration: Configuration) -> Evaluation:
            answer = super()._answer(configuration)
            assert answer.measurements is not None
            latency = answer.measurements.latency.model_copy(update={"yardstick_ms": 0.6})
            measured = answer.measurements.model_copy(update={"latency": latency})
            return answer.model_copy(update={"measurements": measured})

    of = session(InMemoryStorage(), Slow(), axes=ONE)
    run(of, 3)
    table = as_table(read_results(of.study))
    assert len(table) > 3
    speed = 0.5**STEEPNESS
    assert (table["host_speed"] == speed).all()
    assert table["host_ms"].tolist() == pytest.approx((speed * table["gpu_ms"]).tolist())
    (result,) = read_results(of.study).workloads
    finals = of.retiming.measure(result)
    assert finals is not None
    for one in finals.finalists:  # in turns, which have no yardsticks
        assert one.gpu_ms is not None
        assert one.host_ms == pytest.approx(speed * one.gpu_ms, rel=0.05)


def test_the_table_says_why_sampling_ended_and_what_the_device_was_like() -> None:
    class Watched(FakeBench):
        conditions = Conditions(
            sm_mhz=(1755, 1980), temperature_c=61, limits=("power",), discarded=2, unread=""
        )

        def _answer(self, configuration: Configuration) -> Evaluation:
            answer = super()._answer(configuration)
            assert answer.measurements is not None
            measured = answer.measurements.model_copy(update={"conditions": self.conditions})
            return answer.model_copy(update={"measurements": measured})

    class Unread(Watched):
        conditions = Conditions(sm_mhz=None, temperature_c=None, unread="no NVML here")

    of = session(InMemoryStorage(), Watched(), axes=ONE)
    run(of, 2)
    results = read_results(of.study)
    row = as_table(results).iloc[-1]
    assert (row["samples"], row["stopped"]) == (20, "precise")
    assert (row["sm_mhz_low"], row["sm_mhz_high"], row["temperature_c"]) == (1755, 1980, 61)
    assert (row["clock_limits"], row["bursts_discarded"]) == ("power", 2)
    assert not _saying("clocks", results)
    unread = session(InMemoryStorage(), Unread(), axes=ONE)
    run(unread, 2)
    (note,) = _saying("clocks", read_results(unread.study))
    assert note.startswith("clocks could not be read, throttling was not watched for: no NVML")
