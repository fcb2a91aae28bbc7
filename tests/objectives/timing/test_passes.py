"""Passes over steps that are made up: holds, streams, addresses, turns."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from objectives.timing.compare import prepare_built
from objectives.timing.held_stream import Hold
from objectives.timing.latency import steps_known
from objectives.timing.passes import (
    BLOCK,
    HOLD_RETRIES,
    LEAST_PASSES,
    ROUND,
    STEPS_A_REFERENCE,
    HeldPasses,
    StepTime,
    for_gpu,
    for_host,
    gpu_ms_of_passes,
    means_of_passes,
)
from objectives.timing.sampling import MAX_COUNT
from tests.objectives.timing.scripted_steps import (
    KINDS,
    CapturedSteps,
    ScriptedStream,
    Steps,
    as_passes,
)


def test_holds_grow_until_they_outlast_the_host() -> None:
    stream = ScriptedStream(needs_ms=5.0)
    passes = HeldPasses(Steps(), stream)  # type: ignore[arg-type]
    taken = [step for _ in range(3) for step in passes()]
    assert passes.held
    # Three were not held, and do not count.
    assert taken == [StepTime(0.05, 5.0, None, one, n) for one in (1, 2) for n in range(3)]
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


def test_a_step_that_was_not_held_counts_as_it_usually_takes() -> None:
    rng = random.Random(0)
    held = [step for step in as_passes(*[KINDS] * 32) if rng.random() > 0.3]
    means = gpu_ms_of_passes(held)
    assert means == pytest.approx([0.6902] * len(means), rel=1e-3)
    assert 24 < len(means) < 32  # without those that were held for less than half
    # One is never held: what the others take.
    never = [step for step in as_passes(*[[1.0, 2.0, 6.0]] * LEAST_PASSES) if step.index != 1]
    assert gpu_ms_of_passes(never) == [3.5] * LEAST_PASSES


@pytest.mark.parametrize("length", [9, 16, 20])
def test_rounds_of_which_little_was_captured_are_not_counted(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = CapturedSteps(length, monkeypatch)
    passes = HeldPasses(steps, steps.stream)  # type: ignore[arg-type]
    taken = [step for _ in range(ROUND * LEAST_PASSES) for step in passes()]
    assert len(means_of_passes(taken)) == LEAST_PASSES
    taken += [step for step in passes() if step.index >= BLOCK]  # which of 9 is one
    assert len(means_of_passes(taken)) == LEAST_PASSES
    taken += [step for step in passes() if step.index < BLOCK]
    assert len(means_of_passes(taken)) == LEAST_PASSES + 1


def test_a_pass_of_many_steps_is_told_by_those_that_were_captured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = CapturedSteps(64, monkeypatch)
    taken = HeldPasses(steps, steps.stream)()  # type: ignore[arg-type]
    assert gpu_ms_of_passes(taken) == pytest.approx([0.04] * len(for_gpu(taken)))


def test_the_steps_of_few_passes_are_spread_about_the_usual_pass() -> None:
    assert gpu_ms_of_passes(as_passes([1.0, 2.0, 6.0])) == [2.0, 3.0, 7.0]
    assert statistics.median(gpu_ms_of_passes(as_passes(KINDS, KINDS))) == pytest.approx(
        statistics.fmean(KINDS)
    )
    assert gpu_ms_of_passes(as_passes([4.0], [5.0])) == [4.0, 5.0]
    assert gpu_ms_of_passes([]) == []


def test_a_step_that_is_missing_wherever_it_counts_takes_what_it_takes_elsewhere() -> None:
    counted = [StepTime(KINDS[n], 0.1, of_pass=n, index=n) for n in (6, 7)]
    others = [
        StepTime(9.0 if index in (6, 7) else ms, 0.1, index=index, gpu_counts=False)
        for index, ms in enumerate(KINDS)
    ]
    expected = pytest.approx([statistics.fmean(KINDS)] * 2)
    assert means_of_passes(counted + others) == expected


def test_inputs_of_every_pass_lie_elsewhere() -> None:
    steps = Steps(5)
    passes = HeldPasses(steps, ScriptedStream(0.2))  # type: ignore[arg-type]
    taken = [step for _ in range(40) for step in passes()]
    assert len(steps.places) == 40
    assert min(steps.places) >= 0
    assert 0.9 < max(steps.places) < 1
    assert for_gpu(taken) == for_host(taken) == taken


@pytest.mark.parametrize("length", [1, 2, 8, 9, 16, 20, 24, 25, 64, 400])
def test_every_captured_step_is_captured_again_once_in_each_round(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = CapturedSteps(length, monkeypatch)
    passes = HeldPasses(steps, steps.stream)  # type: ignore[arg-type]
    for number in range(1, 7):
        taken = [step for _ in range(ROUND) for step in passes()]
        assert len(taken) == ROUND * length
        assert sorted(steps.captured) == sorted([*range(length)] * number)
        counted = [step for step in taken if step.gpu_counts]
        assert sorted(step.index for step in counted) == [*range(length)]
        assert len({step.of_pass for step in taken}) == 1
        assert all(step.gpu_counts != step.host_counts for step in taken)


@pytest.mark.parametrize("length", [16, 64, 400])
def test_a_single_pass_of_many_steps_captures_some_again(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = CapturedSteps(length, monkeypatch)
    taken = HeldPasses(steps, steps.stream)()  # type: ignore[arg-type]
    assert statistics.median(gpu_ms_of_passes(taken)) < 0.05
    assert len(for_gpu(taken)) >= length / 3 - BLOCK


def test_a_single_pass_of_few_steps_captures_none_again(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = CapturedSteps(BLOCK, monkeypatch)
    taken = HeldPasses(steps, steps.stream)()  # type: ignore[arg-type]
    assert not steps.places
    assert for_gpu(taken) == for_host(taken) == taken


def test_behind_a_capture_gpu_times_count_and_host_times_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = CapturedSteps(4, monkeypatch)
    passes = HeldPasses(steps, steps.stream)  # type: ignore[arg-type]
    taken = [step for _ in range(ROUND * LEAST_PASSES) for step in passes()]
    assert gpu_ms_of_passes(taken) == [0.04] * LEAST_PASSES
    host = [step.host_ms for step in for_host(taken)]
    assert (host.count(0.02), host.count(0.03)) == (7 * LEAST_PASSES, LEAST_PASSES)
    # Where nothing else is known.
    assert for_host([step for step in taken if step.gpu_counts])[0].host_ms == 0.06
    assert for_gpu([step for step in taken if step.host_counts])[0].gpu_ms == 0.05


def test_launches_behind_captures_do_not_make_streams_take_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = CapturedSteps(4, monkeypatch)

    def sample(step: Callable[[], object], hold: Hold) -> tuple[float, float, bool]:
        # Besides those that were just captured one takes longer than the GPU.
        _, host_ms, held = steps.sample(step, hold)
        return 0.05, 0.09 if steps.index == 0 else host_ms, held

    monkeypatch.setattr(steps.stream, "sample", sample)
    other_streams = [lambda: pytest.fail("the GPU takes longer than a host in its stride")]
    monkeypatch.setattr(steps.stream, "others", other_streams)
    passes = HeldPasses(steps, steps.stream)  # type: ignore[arg-type]
    for _ in range(6):
        assert len(passes.turn()) == 8


@pytest.mark.parametrize("others", [1, 2, 3])
@pytest.mark.parametrize("in_turns", [False, True])
def test_captured_steps_are_captured_again_on_each_stream(
    others: int, in_turns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, current, seen = CapturedSteps(2, monkeypatch), [0], list[tuple[int, bool]]()

    @contextmanager
    def on(number: int) -> Iterator[None]:
        current.append(number)
        yield
        current.pop()

    def sample(step: Callable[[], object], hold: Hold) -> tuple[float, float, bool]:
        cold = len(steps.places) > sum(is_cold for _, is_cold in seen)
        seen.append((current[-1], cold))
        return 0.01, 0.02, True

    monkeypatch.setattr(steps.stream, "sample", sample)
    steps.stream.others = [lambda n=n: on(n) for n in range(1, others + 1)]
    passes = HeldPasses(steps, steps.stream)  # type: ignore[arg-type]
    for _ in range(24):
        if in_turns:
            passes.turn()
        else:
            passes()
    each = {(number, cold) for number in range(others + 1) for cold in (False, True)}
    assert set(seen) == each
    of_a_round = 2 * 2 if in_turns else ROUND * 2
    for begin in range(0, len(seen), of_a_round):
        assert len({number for number, _ in seen[begin : begin + of_a_round]}) == 1


@pytest.mark.parametrize("room", [0, 1, 2, 5, 8, 40])
@pytest.mark.parametrize("length", [1, 8])
def test_where_there_is_no_more_room_to_capture_passes_stay_and_count(
    length: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = CapturedSteps(length, monkeypatch, room=room)

    def sample(step: Callable[[], object], hold: Hold) -> tuple[float, float, bool]:
        step()
        return 1.0 + steps.index, 0.7, True

    monkeypatch.setattr(steps.stream, "sample", sample)
    passes = HeldPasses(steps, steps.stream)  # type: ignore[arg-type]
    taken = passes()
    while not steps_known(taken) and len(taken) < MAX_COUNT:
        taken += passes()
    assert steps_known(taken)
    assert len(steps.places) == room
    mean_ms = (1 + length) / 2
    assert statistics.median(gpu_ms_of_passes(taken)) == pytest.approx(mean_ms)
    assert len(passes.turn()) == length


def test_inputs_for_which_there_is_no_room_elsewhere_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, tries = Steps(3), 0

    def no_room(share: float) -> None:
        nonlocal tries
        tries += 1
        raise torch.OutOfMemoryError

    monkeypatch.setattr(steps, "move", no_room)
    passes = HeldPasses(steps, ScriptedStream(0.2))  # type: ignore[arg-type]
    assert [len(passes()) for _ in range(3)] == [3] * 3
    assert tries == 1


@pytest.mark.parametrize("captures", [False, True])
def test_steps_whose_addresses_do_not_matter_stay(
    captures: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(3)
    steps.moves, steps.layer.execution.captures = False, captures
    monkeypatch.setattr(steps, "move", lambda share: pytest.fail("it is of no use"))
    passes = HeldPasses(steps, ScriptedStream(0.2))  # type: ignore[arg-type]
    taken = [step for one in (passes, passes, passes, passes.turn) for step in one()]
    assert len(taken) == 4 * 3
    assert for_gpu(taken) == for_host(taken) == taken
    assert len({step.of_pass for step in taken}) == 4


def test_a_host_reference_is_taken_every_few_steps_and_goes_with_them() -> None:
    references = iter((0.3, 0.5, 0.4))
    steps = Steps(2 * STEPS_A_REFERENCE + 1)
    passes = HeldPasses(steps, ScriptedStream(0.2), lambda: next(references))  # type: ignore[arg-type]
    found = [step.reference_ms for step in passes()]
    assert found == [0.3] * STEPS_A_REFERENCE + [0.5] * STEPS_A_REFERENCE + [0.4]


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
        cold, moves = captures and len(steps.places) > moves, len(steps.places)
        gpu_ms = 0.1 * 2**number if cold or not captures else 9.0
        # Of the second turn one is missed.
        return gpu_ms, 0.1 if cold else 0.2, len(stream.holds) != (10 if captures else 6)

    monkeypatch.setattr(steps, "step", step)
    monkeypatch.setattr(stream, "sample", sample)
    one_pass, held = prepare_built(steps, stream)  # type: ignore[arg-type]
    assert steps.places  # before another run is prepared
    for _ in range(2):
        assert one_pass() == (pytest.approx(2 * 0.375), 2 * 0.2)  # layers
    assert held()
    assert len(stream.holds) == 3 * steps.steps * (2 if captures else 1)


@pytest.mark.parametrize("captures", [False, True])
@pytest.mark.parametrize("needs_ms", [5.0, 1e9])  # beyond the first hold, and beyond any
def test_a_turn_goes_on_until_something_counts(needs_ms: float, captures: bool) -> None:
    run, stream = Steps(3), ScriptedStream(needs_ms)
    run.layer.execution.captures = captures
    one_pass, held = prepare_built(run, stream)  # type: ignore[arg-type]
    assert one_pass() == pytest.approx((2 * 0.05, 2 * needs_ms))
    assert held() == (needs_ms < 1e9)


@pytest.mark.parametrize("missed", [(11, 12), (9, 10, 11, 12)])  # as they are; all
def test_a_turn_goes_on_until_both_times_count(
    missed: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, stream, count = CapturedSteps(2, monkeypatch), ScriptedStream(0.2), 0

    def sample(step: Callable[[], object], hold: Hold) -> tuple[float, float, bool]:
        nonlocal count
        gpu_ms, host_ms, _ = steps.sample(step, hold)
        count += 1
        # Longer than all others, if it counted.
        return gpu_ms if count > 4 else 9.0, host_ms, count not in missed

    monkeypatch.setattr(stream, "sample", sample)
    one_pass, _ = prepare_built(steps, stream)  # type: ignore[arg-type]
    for taken in (8, 16, 20):
        assert one_pass() == pytest.approx((2 * 0.04, 2 * 0.0205))
        assert count == taken


def test_a_turn_of_a_single_captured_step_has_times_that_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = CapturedSteps(1, monkeypatch)
    one_pass, _ = prepare_built(steps, steps.stream)  # type: ignore[arg-type]
    assert [one_pass() for _ in range(4)] == [(2 * 0.04, 2 * 0.02)] * 4
