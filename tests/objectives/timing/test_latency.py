"""When enough is known of steps, and what a trial says of its host."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest

from objectives.timing.held_stream import Hold
from objectives.timing.host_reference import RollingMedian
from objectives.timing.latency import (
    HOST_COUNT,
    LEAST_COUNT,
    LEAST_PASSES,
    UNBOUND_MS,
    Timed,
    measure_cuda,
    steps_known,
)
from objectives.timing.passes import (
    HeldPasses,
    for_gpu,
    for_host,
    gpu_ms_of_passes,
)
from objectives.timing.sampling import MAX_COUNT, NoMonitor, SampleMonitor
from tests.objectives.timing.scripted_steps import (
    KINDS,
    CapturedSteps,
    ScriptedStream,
    Steps,
    as_passes,
)


def test_host_time_needs_more_samples_than_gpu_time() -> None:
    assert not steps_known(as_passes(*[[1.0]] * (HOST_COUNT - 1), host_ms=1.5))
    assert steps_known(as_passes(*[[1.0]] * HOST_COUNT, host_ms=1.5))
    assert not steps_known(as_passes(*[[float(i)] for i in range(HOST_COUNT)]))


def test_steps_that_differ_by_their_length_alone_are_known() -> None:
    passes = math.ceil(UNBOUND_MS / 0.6902 / 8)
    steps = as_passes(*[KINDS] * passes)
    assert gpu_ms_of_passes(steps) == pytest.approx([0.6902] * passes, rel=1e-3)
    assert steps_known(steps)
    assert not steps_known(steps[8:])


@pytest.mark.parametrize("length", [2, 40, 200])
def test_few_passes_are_not_known_however_many_their_steps(length: int) -> None:
    passes = max(LEAST_PASSES, int(UNBOUND_MS) // length)
    for few in range(1, LEAST_PASSES):
        assert not steps_known(as_passes(*[[1.0] * length] * few))
    assert steps_known(as_passes(*[[1.0] * length] * passes))


@pytest.mark.parametrize("length", [1, 2, 3, 8, 16, 20, 22])
def test_of_captured_steps_those_that_count_are_counted(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = CapturedSteps(length, monkeypatch)
    passes = HeldPasses(steps, steps.stream)  # type: ignore[arg-type]
    taken = passes()
    while not steps_known(taken):
        taken += passes()
    assert HOST_COUNT <= len(for_host(taken)) < HOST_COUNT + 2 * length
    assert len(for_gpu(taken)) > HOST_COUNT / 2 - length
    assert len(taken) < MAX_COUNT + length
    few = [step for step in taken if step.host_counts or step.of_pass <= 12]
    assert len({step.of_pass for step in for_gpu(few)}) < LEAST_PASSES
    assert not steps_known(few) or length == 1


def test_a_host_reference_behind_captures_does_not_tell_how_fast_the_host_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = CapturedSteps(8, monkeypatch)

    def reference() -> float:
        return 0.1 if len(steps.places) > steps.before else 0.3

    monkeypatch.setattr(steps.stream, "host_reference", reference)
    timed = measure_cuda(
        steps,  # type: ignore[arg-type]
        steps.stream,  # type: ignore[arg-type]
        budget_s=60.0,
        monitor=NoMonitor(),
    )
    assert timed.reference_ms == 0.3
    assert (timed.gpu.value, timed.host.value) == pytest.approx((2 * 0.04, 2 * 0.02))
    assert (timed.gpu.count, timed.host.count) == (HOST_COUNT / 2 / 8, HOST_COUNT)


@pytest.mark.parametrize(
    ("gpu_ms", "wanted"),
    [(0.1, HOST_COUNT), (0.5, HOST_COUNT), (1.0, 128), (2.0, 64), (30.0, LEAST_COUNT)],
)
def test_host_time_that_does_not_matter_needs_fewer_the_longer_the_gpu_takes(
    gpu_ms: float, wanted: int
) -> None:
    steps = as_passes(*[[gpu_ms]] * wanted, host_ms=0.4 * gpu_ms)
    assert steps_known(steps)
    assert not steps_known(steps[1:])
    # Where it does matter.
    bound = as_passes(*[[gpu_ms]] * HOST_COUNT, host_ms=0.6 * gpu_ms)
    assert steps_known(bound)
    assert not steps_known(bound[1:])


@pytest.mark.parametrize(
    ("needs_ms", "held", "reference_ms"),
    [(0.2, True, 0.31), (1e9, False, None)],  # the latter waits for the GPU, not for the host
)
def test_what_a_trial_says_of_its_host(
    needs_ms: float, held: bool, reference_ms: float | None
) -> None:
    stream = ScriptedStream(needs_ms)
    cores = stream.cores
    # Nine of ten are disturbed.
    stream.host_reference = iter([0.31, *[0.9] * 9] * 1000).__next__
    timed = measure_cuda(
        Steps(8),  # type: ignore[arg-type]
        stream,  # type: ignore[arg-type]
        budget_s=60.0,
        monitor=NoMonitor(),
    )
    assert (timed.gpu.value, timed.host.value) == pytest.approx((2 * 0.05, 2 * needs_ms))  # layers
    assert (timed.held, timed.reference_ms) == (held, reference_ms)
    assert (cores.inside, cores.left, cores.settled > 1) == (False, 1, True)


def test_host_time_and_reference_are_of_the_same_share_of_the_steps() -> None:
    fast = iter([True] * 4 + [False] * 100)  # of references; each is of four steps
    stream = ScriptedStream(0.5)

    def reference() -> float:
        is_fast = next(fast)
        stream.needs_ms = 0.25 if is_fast else 0.5
        return 0.3 if is_fast else 0.6

    stream.host_reference = reference
    timed = measure_cuda(
        Steps(8),  # type: ignore[arg-type]
        stream,  # type: ignore[arg-type]
        budget_s=60.0,
        monitor=NoMonitor(),
    )
    assert timed.reference_ms is not None
    assert timed.host.value / 2 / timed.reference_ms == pytest.approx(0.5 / 0.6)


class Host:
    """A stream whose references are those of one trial after the other."""

    def __init__(self, *trials_ms: float) -> None:
        self.stream, self.left = ScriptedStream(0.2), [*trials_ms]
        self.pauses: list[float] = []
        self.stream.host_reference = lambda: self.left[0]

    def measure(self, monitor: SampleMonitor | None = None) -> Timed:
        return measure_cuda(
            Steps(8),  # type: ignore[arg-type]
            self.stream,  # type: ignore[arg-type]
            budget_s=60.0,
            monitor=monitor or NoMonitor(),
            sleep=self._passed,
        )

    def _passed(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.left.pop(0)


@pytest.mark.parametrize(
    ("trials_ms", "kept_ms", "pauses"),
    [
        ((0.32, 9.9), 0.32, 0),  # as usual, or nearly
        ((0.6, 0.31, 9.9), 0.31, 1),
        ((0.6, 0.5, 0.55, 0.31, 9.9), 0.31, 3),
        ((0.6, 0.5, 0.7, 0.8, 0.1), 0.5, 3),  # it has to do
    ],
)
def test_a_trial_beside_which_the_host_is_disturbed_is_timed_again(
    trials_ms: Sequence[float], kept_ms: float, pauses: int
) -> None:
    host = Host(*trials_ms)
    for _ in range(5):
        host.stream.recent_reference.add(0.3)
    assert host.measure().reference_ms == pytest.approx(kept_ms)
    assert len(host.pauses) == pauses


class IdlingHost(Host):
    """A host whose device lowers its clock while it idles: steps take five times as long then."""

    def __init__(self, *trials_ms: float) -> None:
        super().__init__(*trials_ms)
        self.cold, self._sample = True, self.stream.sample
        self.stream.sample, self.stream.warm = self.sample, self.warm  # type: ignore[method-assign]

    def warm(self) -> None:
        self.cold = False

    def sample(self, step: Callable[[], object], hold: Hold) -> tuple[float, float, bool]:
        gpu_ms, host_ms, held = self._sample(step, hold)
        return gpu_ms * (5 if self.cold else 1), host_ms, held

    def _passed(self, seconds: float) -> None:
        super()._passed(seconds)
        self.cold = True


@pytest.mark.parametrize("trials_ms", [(0.31, 9.9), (0.6, 0.31, 9.9)])
def test_no_step_is_timed_before_the_clock_is_up(trials_ms: Sequence[float]) -> None:
    host = IdlingHost(*trials_ms)
    for _ in range(5):
        host.stream.recent_reference.add(0.3)
    timed = host.measure()
    assert timed.reference_ms == 0.31
    assert timed.gpu.high == pytest.approx(2 * 0.05)  # layers


def test_what_was_sampled_stands_where_the_device_throttles_the_second_time() -> None:
    host = Host(0.6, 0.3)
    for _ in range(5):
        host.stream.recent_reference.add(0.3)

    class ThrottledLater(NoMonitor):
        gives_up = True

        def clean(self) -> bool:
            return not host.pauses

    assert host.measure(ThrottledLater()).reference_ms == 0.6
    assert len(host.pauses) == 1


def test_a_host_that_has_become_slower_is_usual_again_some_trials_later() -> None:
    usual = RollingMedian()
    for _ in range(4):
        usual.add(0.3)
    assert not usual.is_exceeded(9.0)  # too little is known
    usual.add(0.3)
    assert usual.is_exceeded(0.5)
    assert usual.is_exceeded(0.34)
    assert not usual.is_exceeded(0.32)
    for _ in range(10):
        usual.add(0.3)
    for _ in range(8):
        assert usual.is_exceeded(0.5)
        usual.add(0.5)
    assert not usual.is_exceeded(0.5)
