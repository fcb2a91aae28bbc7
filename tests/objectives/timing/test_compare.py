"""Turns and groups with fakes in the place of a device, and once on this machine's CPU."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable

import pytest
import torch

from objectives.process.client import ProcessDied
from objectives.schema.comparison import MIN_ROUNDS, Comparison
from objectives.schema.limits import Limits
from objectives.timing.affinity import CoreSelector
from objectives.timing.clocks import MAX_DISCARDED
from objectives.timing.compare import (
    MAX_ROUNDS,
    PRECISE_ROUNDS,
    PreparedRun,
    Turn,
    compare,
    take_turns,
)
from objectives.timing.sampling import NoMonitor, SampleMonitor, Throttled
from objectives.trial.bench import DeviceBench
from objectives.trial.evaluator import Evaluator
from tests.configurations import configured
from tests.objectives.timing.test_clocks import FINE, HOT, watched
from variants.configuration import Configuration
from variants.detect import detect_device
from variants.workload import Workload

W = Workload(batch=2, seq_len=100, new_tokens=3, q_heads=4, head_dim=16)
FIRST, *OTHERS = (configured(W, f"{b} bf16 static") for b in ("auto", "math", "flash", "eager"))


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def noisy(clock: Clock, mean: float, noise: float, seed: int) -> Callable[[], Turn]:
    rng = random.Random(seed)

    def one_pass() -> Turn:
        clock.time += mean
        time = mean * rng.lognormvariate(0, noise)
        return Turn(time, time / 2)

    return one_pass


def test_steady_ratios_stop_early_noisy_ones_by_time_or_count() -> None:
    clock = Clock()

    def rounds(noise: float, budget_s: float) -> int:
        passes = [noisy(clock, 0.1, noise, seed) for seed in range(3)]
        return len(
            take_turns(
                passes, budget_s=budget_s, rng=random.Random(0), monitor=NoMonitor(), now=clock
            )[0]
        )

    assert rounds(0.001, 1e9) == PRECISE_ROUNDS
    assert rounds(0.3, 1e9) == MAX_ROUNDS
    assert rounds(0.3, 6.0) in (20, 21)
    assert rounds(0.3, 0.0) == MIN_ROUNDS


def counted() -> tuple[Callable[[], Turn], list[float]]:
    """A pass that takes 1 ms, 2 ms and so on, and what it took so far."""
    took: list[float] = []

    def one_pass() -> Turn:
        took.append(len(took) + 1.0)
        return Turn(None, took[-1])

    return one_pass, took


def test_rounds_of_a_device_that_throttled_are_discarded_and_taken_again() -> None:
    monitor, pauses = watched(FINE, HOT, FINE, HOT, HOT, *[FINE] * 5)
    passes = [counted(), counted()]
    turns = take_turns(
        [one_pass for one_pass, _ in passes], budget_s=0, rng=random.Random(0), monitor=monitor
    )
    clean = [2.0, 5.0, 6.0, 7.0, 8.0, 9.0]  # a round is a burst where no time is left
    assert [[turn.host_ms for turn in taken] for taken in turns] == [clean, clean]
    assert len(clean) == MIN_ROUNDS
    assert len(pauses) == 3


def test_what_was_sampled_before_the_turns_is_not_taken_for_theirs() -> None:
    monitor, pauses = watched(HOT, *[FINE] * MIN_ROUNDS)
    one_pass, took = counted()
    take_turns([one_pass], budget_s=0, rng=random.Random(0), monitor=monitor)
    assert (len(took), len(pauses)) == (MIN_ROUNDS, 1)


def test_the_time_of_discarded_rounds_is_given_back() -> None:
    clock = Clock()
    passes = [noisy(clock, 0.1, 0.3, seed) for seed in range(3)]
    monitor, _ = watched(FINE, *[HOT] * (MAX_DISCARDED - 1), *[FINE] * 30)
    turns = take_turns(passes, budget_s=6.0, rng=random.Random(0), monitor=monitor, now=clock)
    assert len(turns[0]) in (20, 21)


@pytest.mark.parametrize("clean", [0, 1, 3])
def test_a_device_that_goes_on_throttling_is_given_up(clean: int) -> None:
    monitor, pauses = watched(FINE, *[FINE] * clean, *[HOT] * MAX_DISCARDED)
    one_pass, took = counted()

    def turns() -> list[list[Turn]]:
        return take_turns([one_pass], budget_s=0, rng=random.Random(0), monitor=monitor)

    if clean:
        assert [turn.host_ms for turn in turns()[0]] == took[:clean]
    else:
        with pytest.raises(Throttled, match=r"hw_thermal_slowdown, 92 °C\) in 8 bursts"):
            turns()
    assert len(took) == clean + MAX_DISCARDED
    assert len(pauses) == MAX_DISCARDED


def test_each_round_has_everybody_once_in_an_order_of_its_own() -> None:
    order: list[int] = []

    def tell(index: int) -> Callable[[], Turn]:
        def one_pass() -> Turn:
            order.append(index)
            return Turn(None, 1.0)

        return one_pass

    turns = take_turns(
        [tell(i) for i in range(5)], budget_s=1, rng=random.Random(0), monitor=NoMonitor()
    )
    rounds = [tuple(order[i : i + 5]) for i in range(0, len(order), 5)]
    assert all(sorted(one) == list(range(5)) for one in rounds)
    assert len(set(rounds)) > len(rounds) / 2
    assert [len(of) for of in turns] == [len(rounds)] * 5


class Settling(CoreSelector):
    """Notes when it is entered, settles and is left."""

    def __init__(self, notes: list[str]) -> None:
        super().__init__()
        self.notes = notes

    def __enter__(self) -> CoreSelector:
        self.notes.append("enter")
        return self

    def settle(self) -> float:
        self.notes.append("settle")
        return 1.0

    def __exit__(self, *error: object) -> None:
        self.notes.append("leave")


def test_each_round_begins_on_a_core_at_full_speed() -> None:
    notes: list[str] = []

    def one_pass() -> Turn:
        notes.append("pass")
        if len(notes) > 8:
            raise RuntimeError
        return Turn(1.0, 1.0)

    with pytest.raises(RuntimeError):
        take_turns(
            [one_pass, one_pass],
            budget_s=1,
            rng=random.Random(0),
            monitor=NoMonitor(),
            cores=Settling(notes),
        )
    one_round = ["settle", "pass", "pass"]
    assert notes == ["enter", *one_round, *one_round, "settle", "pass", "leave"]


class Room:
    """Memory with some places: what is built takes its size until nothing refers to it."""

    def __init__(self, places: int, **sizes: int) -> None:
        self.places, self.sizes = places, sizes
        self.taken = self.most = 0

    def prepare(self, configuration: Configuration) -> PreparedRun:
        built = Built(self, self.sizes.get(configuration.variant.backend, 1))
        return built.one_pass, lambda: True

    def compare(self, monitor: Callable[[], SampleMonitor] = NoMonitor) -> Comparison:
        return compare(
            [FIRST, *OTHERS],
            self.prepare,
            lambda error: "not here" if "declined" in str(error) else None,
            lambda: None,  # reference counts alone must do
            budget_s=0,
            rng=random.Random(0),
            monitor=monitor,
            cores=None,
        )


class Built:
    def __init__(self, room: Room, size: int) -> None:
        if room.taken + size > room.places:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB. GPU 0 has")
        room.taken += size
        room.most = max(room.most, room.taken)
        weakref.finalize(self, self._leave, room, size)

    @staticmethod
    def _leave(room: Room, size: int) -> None:
        room.taken -= size

    def one_pass(self) -> Turn:
        return Turn(1.0, 0.5)


@pytest.mark.parametrize(("places", "groups"), [(4, 1), (3, 2), (2, 3)])
def test_what_does_not_fit_at_once_is_timed_in_groups_around_the_first(
    places: int, groups: int
) -> None:
    room = Room(places)
    comparison = room.compare()
    assert room.most == places
    assert room.taken == 0
    assert len(comparison.groups) == groups
    assert {group[0].configuration for group in comparison.groups} == {FIRST}
    timed = [one.configuration for group in comparison.groups for one in group[1:]]
    assert timed == OTHERS
    assert comparison.missing == {}


def test_what_has_no_room_beside_the_first_is_missing_with_the_reason() -> None:
    comparison = Room(4, flash=4).compare()
    (group,) = comparison.groups
    assert [one.configuration.variant.backend for one in group] == ["auto", "math", "eager"]
    ((key, reason),) = comparison.missing.items()
    assert " flash/" in key
    assert reason == "no room beside auto/bf16/none/static/same/eager: CUDA out of memory"


def test_without_the_first_there_is_nothing_to_compare_with() -> None:
    comparison = Room(4, auto=5).compare()
    assert comparison.groups == ()
    assert len(comparison.missing) == 4
    assert comparison.missing[FIRST.key] == "CUDA out of memory"


def test_a_first_that_fits_no_more_was_timed_all_the_same() -> None:
    class Shrinking(Room):
        def compare(self, monitor: Callable[[], SampleMonitor] = NoMonitor) -> Comparison:
            def watching() -> SampleMonitor:
                self.places = 0  # once the first group is built
                return monitor()

            return super().compare(watching)

    comparison = Shrinking(3).compare()
    (group,) = comparison.groups
    assert [one.configuration for one in group] == [FIRST, *OTHERS[:2]]
    ((key, reason),) = comparison.missing.items()
    assert key == OTHERS[2].key
    assert reason.endswith("against which it is timed, was not: CUDA out of memory")


def test_where_a_device_throttles_all_are_missing_with_the_reason() -> None:
    room = Room(4)
    comparison = room.compare(lambda: watched(FINE, *[HOT] * MAX_DISCARDED)[0])
    assert comparison.groups == ()
    assert set(comparison.missing) == {c.key for c in (FIRST, *OTHERS)}
    for reason in comparison.missing.values():
        assert reason.startswith("the device throttled (hw_thermal_slowdown, 92 °C) in 8 bursts")
    assert room.taken == 0


def test_groups_before_the_one_that_was_throttled_are_kept() -> None:
    watches = [watched(*[FINE] * 20)[0], watched(FINE, *[HOT] * MAX_DISCARDED)[0]]
    comparison = Room(2).compare(lambda: watches.pop(0))
    (group,) = comparison.groups
    assert [one.configuration for one in group] == [FIRST, OTHERS[0]]
    # Those of the group, and what was to come after it; the first was timed.
    assert set(comparison.missing) == {c.key for c in OTHERS[1:]}
    assert watches == []


def test_what_pytorch_declines_is_missing_and_other_errors_are_raised() -> None:
    class Refusing(Room):
        text = "declined"

        def prepare(self, configuration: Configuration) -> PreparedRun:
            if configuration.variant.backend == "math":
                raise RuntimeError(self.text)
            return super().prepare(configuration)

    room = Refusing(4)
    assert list(room.compare().missing.values()) == ["not here"]
    room.text = "illegal memory access"
    with pytest.raises(RuntimeError, match="illegal"):
        room.compare()


def test_on_this_machine_two_configurations_are_timed_in_turns() -> None:
    evaluator = Evaluator(detect_device("cpu"), Limits(sampling_s=0.02), seed=0)
    chosen = [configured(W, f"{words} static") for words in ("flash fp32", "math bf16")]
    comparison = evaluator.compare(chosen)
    (group,) = comparison.groups
    assert [one.configuration for one in group] == chosen
    assert len(group[0].host_ms) == len(group[1].host_ms) >= MIN_ROUNDS
    assert group[0].gpu_ms == ()
    assert all(time > 0 for one in group for time in one.latency_ms)
    assert Comparison.model_validate_json(comparison.model_dump_json()) == comparison


def test_turns_are_watched_by_what_watches_a_trial() -> None:
    evaluator = Evaluator(detect_device("cpu"), Limits(sampling_s=0.02), seed=0)
    evaluator.monitor = lambda: watched(FINE, *[HOT] * MAX_DISCARDED)[0]  # type: ignore[method-assign]
    chosen = [configured(W, f"{words} static") for words in ("flash fp32", "math bf16")]
    comparison = evaluator.compare(chosen)
    assert comparison.groups == ()
    assert set(comparison.missing) == {one.key for one in chosen}


def test_a_process_that_dies_leaves_all_missing_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def dies(*args: object, **options: object) -> dict[str, object]:
        raise ProcessDied("the measuring process ended in stage 'compare' (exit status 3)")

    bench = DeviceBench(Limits(), seed=0, device="cpu")
    monkeypatch.setattr(bench.process, "call", dies)
    comparison = bench.compare([FIRST, *OTHERS])
    assert comparison.groups == ()
    assert set(comparison.missing) == {c.key for c in (FIRST, *OTHERS)}
    assert "exit status 3" in comparison.missing[FIRST.key]
