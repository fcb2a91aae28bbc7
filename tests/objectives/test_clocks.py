"""Throttling, with a scripted device in the place of NVML."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace

import pynvml
import pytest
import torch

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
from objectives.compare import prepare_built
from objectives.evaluate import Evaluator
from objectives.evaluation import Outcome
from objectives.held_stream import WARM_SHARE, Hold, raise_clock
from objectives.latency import (
    HOST_COUNT,
    LEAST_COUNT,
    LEAST_PASSES,
    UNBOUND_MS,
    Timed,
    measure_cuda,
    steps_known,
)
from objectives.limits import Limits
from objectives.passes import (
    HOLD_RETRIES,
    STEPS_A_YARDSTICK,
    HeldPasses,
    StepTime,
    for_gpu,
    for_host,
    gpu_ms_of_passes,
)
from objectives.sampling import Throttled, Trusting, Watcher
from objectives.yardstick import Usual
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


class OneCore:
    """Cores, as a context, that are entered and left."""

    inside, settled, left = False, 0, 0

    def __enter__(self) -> OneCore:
        self.inside = True
        return self

    def settle(self) -> None:
        assert self.inside
        self.settled += 1

    def __exit__(self, *error: object) -> None:
        self.inside, self.left = False, self.left + 1


class ScriptedStream:
    """Answers how long a step took and whether it was held, by how long the hold was."""

    def __init__(self, needs_ms: float) -> None:
        self.needs_ms = needs_ms
        self.holds: list[float] = []
        self.cores, self.usual = OneCore(), Usual()
        self.others: list[Callable[[], AbstractContextManager[object]]] = []
        self.yardstick: Callable[[], float] = lambda: 0.3

    def sample(self, step: Callable[[], object], hold: Hold) -> tuple[float, float, bool]:
        self.holds.append(hold.ms)
        step()
        return 0.05, self.needs_ms, hold.ms > self.needs_ms

    def warm(self) -> None:
        pass


class Steps:
    def __init__(self, steps: int = 3) -> None:
        self.steps = steps
        self.layer = SimpleNamespace(
            device=torch.device("cpu"), execution=SimpleNamespace(captures=False)
        )
        self.moves: list[float] = []
        workload = Workload(batch=1, seq_len=64, layers=2)
        self.configuration = configured(workload, "math fp32")

    def restart(self) -> None:
        pass

    def move(self, share: float) -> bool:
        self.moves.append(share)
        return bool(self.layer.execution.captures)

    def step(self, index: int) -> None:
        pass

    def results(self, out: None) -> dict[str, torch.Tensor]:
        return {}


def test_holds_grow_until_they_outlast_the_host() -> None:
    stream = ScriptedStream(needs_ms=5.0)
    passes = HeldPasses(Steps(), stream)  # type: ignore[arg-type]
    taken = [step for _ in range(3) for step in passes()]
    assert passes.held
    # Three were not held, and do not count.
    assert taken == [StepTime(0.05, 5.0, None, one, n) for one in (2, 3) for n in range(3)]
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


@pytest.mark.parametrize(
    ("needs_ms", "expected"),
    [
        (0.2, [0, 1, 1, 2, 2, 0, 1, 2]),  # the first time on each is not timed
        (0.02, [0] * 6),
    ],
)
def test_a_step_that_waits_for_its_launches_is_timed_on_several_streams_in_turns(
    needs_ms: float, expected: list[int]
) -> None:
    stream, steps, current = ScriptedStream(needs_ms), Steps(), list[int]()

    @contextmanager
    def on(number: int) -> Iterator[None]:
        current.append(number)
        yield
        current.pop()

    seen: list[int] = []
    steps.step = lambda index: seen.append(current[-1] if current else 0)  # type: ignore[method-assign]
    stream.others = [lambda: on(1), lambda: on(2)]
    passes = HeldPasses(steps, stream)  # type: ignore[arg-type]
    for _ in range(6):
        assert len(passes()) == 3
    assert seen == [number for number in expected for _ in range(steps.steps)]


def as_passes(*passes: list[float], host_ms: float = 0.1) -> list[StepTime]:
    return [
        StepTime(ms, host_ms, of_pass=number, index=index)
        for number, one in enumerate(passes)
        for index, ms in enumerate(one)
    ]


def test_host_time_needs_more_samples_than_gpu_time() -> None:
    assert not steps_known(as_passes(*[[1.0]] * (HOST_COUNT - 1), host_ms=1.5))
    assert steps_known(as_passes(*[[1.0]] * HOST_COUNT, host_ms=1.5))
    assert not steps_known(as_passes(*[[float(i)] for i in range(HOST_COUNT)]))


KINDS = [0.7361, 0.6876, 0.7352, 0.6875, 0.7361, 0.6855, 0.7365, 0.5169]  # as of an H200


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


def test_a_step_that_was_not_held_counts_as_it_usually_takes() -> None:
    rng = random.Random(0)
    held = [step for step in as_passes(*[KINDS] * 32) if rng.random() > 0.3]
    assert gpu_ms_of_passes(held) == pytest.approx([0.6902] * 32, rel=1e-3)
    # One is never held: what the others take.
    never = [step for step in as_passes(*[[1.0, 2.0, 6.0]] * LEAST_PASSES) if step.index != 1]
    assert gpu_ms_of_passes(never) == [3.5] * LEAST_PASSES


def test_the_steps_of_few_passes_are_spread_about_the_usual_pass() -> None:
    assert gpu_ms_of_passes(as_passes([1.0, 2.0, 6.0])) == [2.0, 3.0, 7.0]
    assert statistics.median(gpu_ms_of_passes(as_passes(KINDS, KINDS))) == pytest.approx(
        statistics.fmean(KINDS)
    )
    assert gpu_ms_of_passes(as_passes([4.0], [5.0])) == [4.0, 5.0]
    assert gpu_ms_of_passes([]) == []


@pytest.mark.parametrize(
    ("captures", "length", "moves"),
    [(False, 5, 40), (True, 5, 65), (True, 2, 26), (True, 1, 13)],
)
def test_passes_work_elsewhere_and_one_in_three_captures_its_steps_again(
    captures: bool, length: int, moves: int
) -> None:
    steps = Steps(length)
    steps.layer.execution.captures = captures
    passes = HeldPasses(steps, ScriptedStream(0.2))  # type: ignore[arg-type]
    taken = [step for _ in range(40) for step in passes()]
    assert len(steps.moves) == moves
    captured = [step for step in taken if step.behind_capture]
    assert len(captured) == (moves if captures else 0)
    assert len({step.of_pass for step in captured}) == (13 if captures else 0)
    assert min(steps.moves) >= 0
    assert 0.9 < max(steps.moves) < 1


class CapturedSteps(Steps):
    """What is captured again, on a host that needs three times as long behind it."""

    def __init__(self, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(steps)
        self.layer.execution.captures = True
        self.stream = ScriptedStream(0.02)
        monkeypatch.setattr(self.stream, "sample", self.sample)
        self._seen = self.before = 0

    def restart(self) -> None:
        self.before = len(self.moves)

    def sample(self, step: Callable[[], object], hold: Hold) -> tuple[float, float, bool]:
        cold, self._seen = len(self.moves) > self._seen, len(self.moves)
        return (0.04, 0.06, True) if cold else (0.05, 0.02, True)


def test_behind_a_capture_gpu_times_count_and_host_times_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = CapturedSteps(4, monkeypatch)
    other_streams = [lambda: pytest.fail("the GPU takes longer than a host in its stride")]
    monkeypatch.setattr(steps.stream, "others", other_streams)
    passes = HeldPasses(steps, steps.stream)  # type: ignore[arg-type]
    taken = [step for _ in range(3 * LEAST_PASSES) for step in passes()]
    assert gpu_ms_of_passes(taken) == [0.04] * LEAST_PASSES
    assert [step.host_ms for step in for_host(taken)] == [0.02] * 8 * LEAST_PASSES
    # Where nothing else is known.
    assert for_host([step for step in taken if step.behind_capture])[0].host_ms == 0.06
    assert for_gpu([step for step in taken if not step.behind_capture])[0].gpu_ms == 0.05


def test_of_captured_steps_those_that_count_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = CapturedSteps(8, monkeypatch)
    passes = HeldPasses(steps, steps.stream)  # type: ignore[arg-type]
    taken = passes()
    while not steps_known(taken):
        taken += passes()
    assert len(for_host(taken)) == HOST_COUNT
    assert len(for_gpu(taken)) == HOST_COUNT / 2
    few = [step for step in taken if not step.behind_capture or step.of_pass <= 15]
    assert len({step.of_pass for step in for_gpu(few)}) < LEAST_PASSES
    assert not steps_known(few)


def test_a_yardstick_behind_captures_does_not_tell_how_fast_the_host_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = CapturedSteps(8, monkeypatch)

    def yardstick() -> float:
        return 0.1 if len(steps.moves) > steps.before else 0.3

    monkeypatch.setattr(steps.stream, "yardstick", yardstick)
    timed = measure_cuda(
        steps,  # type: ignore[arg-type]
        steps.stream,  # type: ignore[arg-type]
        budget_s=60.0,
        watch=Trusting(),
    )
    assert timed.yardstick_ms == 0.3
    assert (timed.gpu.value, timed.host.value) == pytest.approx((2 * 0.04, 2 * 0.02))


@pytest.mark.parametrize("captures", [False, True])
def test_where_there_is_no_room_to_work_elsewhere_passes_stay(
    captures: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, tries = Steps(3), 0
    steps.layer.execution.captures = captures

    def no_room(share: float) -> None:
        nonlocal tries
        tries += 1
        raise torch.OutOfMemoryError

    monkeypatch.setattr(steps, "move", no_room)
    passes = HeldPasses(steps, ScriptedStream(0.2))  # type: ignore[arg-type]
    assert [len(passes()) for _ in range(6)] == [3] * 6
    assert [len(passes.turn()) for _ in range(2)] == [3] * 2
    assert tries == 1


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


def test_a_yardstick_is_taken_every_few_steps_and_goes_with_them() -> None:
    yardsticks = iter((0.3, 0.5, 0.4))
    steps = Steps(2 * STEPS_A_YARDSTICK + 1)
    passes = HeldPasses(steps, ScriptedStream(0.2), lambda: next(yardsticks))  # type: ignore[arg-type]
    found = [step.yardstick_ms for step in passes()]
    assert found == [0.3] * STEPS_A_YARDSTICK + [0.5] * STEPS_A_YARDSTICK + [0.4]


@pytest.mark.parametrize(
    ("needs_ms", "held", "yardstick_ms"),
    [(0.2, True, 0.31), (1e9, False, None)],  # the latter waits for the GPU, not for the host
)
def test_what_a_trial_says_of_its_host(
    needs_ms: float, held: bool, yardstick_ms: float | None
) -> None:
    stream = ScriptedStream(needs_ms)
    cores = stream.cores
    # Nine of ten are disturbed.
    stream.yardstick = iter([0.31, *[0.9] * 9] * 1000).__next__
    timed = measure_cuda(
        Steps(8),  # type: ignore[arg-type]
        stream,  # type: ignore[arg-type]
        budget_s=60.0,
        watch=Trusting(),
    )
    assert (timed.gpu.value, timed.host.value) == pytest.approx((2 * 0.05, 2 * needs_ms))  # layers
    assert (timed.held, timed.yardstick_ms) == (held, yardstick_ms)
    assert (cores.inside, cores.left, cores.settled > 1) == (False, 1, True)


def test_host_time_and_yardstick_are_of_the_same_share_of_the_steps() -> None:
    fast = iter([True] * 4 + [False] * 100)  # of yardsticks; each is of four steps
    stream = ScriptedStream(0.5)

    def yardstick() -> float:
        is_fast = next(fast)
        stream.needs_ms = 0.25 if is_fast else 0.5
        return 0.3 if is_fast else 0.6

    stream.yardstick = yardstick
    timed = measure_cuda(
        Steps(8),  # type: ignore[arg-type]
        stream,  # type: ignore[arg-type]
        budget_s=60.0,
        watch=Trusting(),
    )
    assert timed.yardstick_ms is not None
    assert timed.host.value / 2 / timed.yardstick_ms == pytest.approx(0.5 / 0.6)


class Host:
    """A stream whose yardsticks are those of one trial after the other."""

    def __init__(self, *trials_ms: float) -> None:
        self.stream, self.left = ScriptedStream(0.2), [*trials_ms]
        self.pauses: list[float] = []
        self.stream.yardstick = lambda: self.left[0]

    def measure(self, watch: Watcher | None = None) -> Timed:
        return measure_cuda(
            Steps(8),  # type: ignore[arg-type]
            self.stream,  # type: ignore[arg-type]
            budget_s=60.0,
            watch=watch or Trusting(),
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
        host.stream.usual.learn(0.3)
    assert host.measure().yardstick_ms == pytest.approx(kept_ms)
    assert len(host.pauses) == pauses


def test_what_was_sampled_stands_where_the_device_throttles_the_second_time() -> None:
    host = Host(0.6, 0.3)
    for _ in range(5):
        host.stream.usual.learn(0.3)

    class ThrottledLater(Trusting):
        gives_up = True

        def clean(self) -> bool:
            return not host.pauses

    assert host.measure(ThrottledLater()).yardstick_ms == 0.6
    assert len(host.pauses) == 1


def test_a_host_that_has_become_slower_is_usual_again_some_trials_later() -> None:
    usual = Usual()
    for _ in range(4):
        usual.learn(0.3)
    assert not usual.is_exceeded(9.0)  # too little is known
    usual.learn(0.3)
    assert usual.is_exceeded(0.5)
    assert usual.is_exceeded(0.34)
    assert not usual.is_exceeded(0.32)
    for _ in range(10):
        usual.learn(0.3)
    for _ in range(8):
        assert usual.is_exceeded(0.5)
        usual.learn(0.5)
    assert not usual.is_exceeded(0.5)


@pytest.mark.parametrize("captures", [False, True])
def test_a_turn_is_of_all_steps_which_differ_by_their_length(
    captures: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, stream, number, moves = Steps(4), ScriptedStream(0.2), 0, 0
    steps.layer.execution.captures = captures

    def step(index: int) -> None:
        nonlocal number
        number = index

    def sample(step: Callable[[], object], hold: Hold) -> tuple[float, float, bool]:
        nonlocal moves
        step()
        stream.holds.append(hold.ms)
        cold, moves = captures and len(steps.moves) > moves, len(steps.moves)
        gpu_ms = 0.1 * 2**number if cold or not captures else 9.0
        # Of the second turn one is missed.
        return gpu_ms, 0.1 if cold else 0.2, len(stream.holds) != (10 if captures else 6)

    monkeypatch.setattr(steps, "step", step)
    monkeypatch.setattr(stream, "sample", sample)
    one_pass, held = prepare_built(steps, stream)  # type: ignore[arg-type]
    assert steps.moves  # while a lack of room still is this run's own
    for _ in range(2):
        assert one_pass() == (pytest.approx(2 * 0.375), 2 * 0.2)  # layers
    assert held()
    assert len(stream.holds) == 3 * steps.steps * (2 if captures else 1)


@pytest.mark.parametrize("needs_ms", [5.0, 1e9])  # beyond the first hold, and beyond any
def test_a_turn_goes_on_until_something_counts(needs_ms: float) -> None:
    run, stream = Steps(3), ScriptedStream(needs_ms)
    one_pass, held = prepare_built(run, stream)  # type: ignore[arg-type]
    assert one_pass() == pytest.approx((2 * 0.05, 2 * needs_ms))
    assert held() == (needs_ms < 1e9)


def test_a_turn_of_a_single_captured_step_has_times_that_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = CapturedSteps(1, monkeypatch)
    one_pass, _ = prepare_built(steps, steps.stream)  # type: ignore[arg-type]
    assert [one_pass() for _ in range(4)] == [(2 * 0.04, 2 * 0.02)] * 4
