"""Turns and groups with fakes in the place of a device, and once on this machine's CPU."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable

import pytest
import torch

from objectives.bench import DeviceBench
from objectives.compare import (
    MAX_ROUNDS,
    MIN_ROUNDS,
    PRECISE_ROUNDS,
    Prepared,
    Turn,
    compare,
    take_turns,
)
from objectives.comparison import Comparison
from objectives.cores import Cores
from objectives.evaluate import Evaluator
from objectives.isolation import WorkerDied
from objectives.limits import Limits
from objectives.sampling import Trusting
from tests.configurations import configured
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
                passes, budget_s=budget_s, rng=random.Random(0), watch=Trusting(), now=clock
            )[0]
        )

    assert rounds(0.001, 1e9) == PRECISE_ROUNDS
    assert rounds(0.3, 1e9) == MAX_ROUNDS
    assert rounds(0.3, 6.0) in (20, 21)
    assert rounds(0.3, 0.0) == MIN_ROUNDS


def test_each_round_has_everybody_once_in_an_order_of_its_own() -> None:
    order: list[int] = []

    def tell(index: int) -> Callable[[], Turn]:
        def one_pass() -> Turn:
            order.append(index)
            return Turn(None, 1.0)

        return one_pass

    turns = take_turns(
        [tell(i) for i in range(5)], budget_s=1, rng=random.Random(0), watch=Trusting()
    )
    rounds = [tuple(order[i : i + 5]) for i in range(0, len(order), 5)]
    assert all(sorted(one) == list(range(5)) for one in rounds)
    assert len(set(rounds)) > len(rounds) / 2
    assert [len(of) for of in turns] == [len(rounds)] * 5


class Settling(Cores):
    """Notes when it is entered, settles and is left."""

    def __init__(self, notes: list[str]) -> None:
        super().__init__()
        self.notes = notes

    def __enter__(self) -> Cores:
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
            watch=Trusting(),
            cores=Settling(notes),
        )
    one_round = ["settle", "pass", "pass"]
    assert notes == ["enter", *one_round, *one_round, "settle", "pass", "leave"]


class Room:
    """Memory with some places: what is built takes its size until nothing refers to it."""

    def __init__(self, places: int, **sizes: int) -> None:
        self.places, self.sizes = places, sizes
        self.taken = self.most = 0

    def prepare(self, configuration: Configuration) -> Prepared:
        built = Built(self, self.sizes.get(configuration.variant.backend, 1))
        return built.one_pass, lambda: True

    def compare(self) -> Comparison:
        return compare(
            [FIRST, *OTHERS],
            self.prepare,
            lambda error: "not here" if "declined" in str(error) else None,
            lambda: None,  # reference counts alone must do
            budget_s=0,
            rng=random.Random(0),
            watch=Trusting,
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


def test_what_pytorch_declines_is_missing_and_other_errors_are_raised() -> None:
    class Refusing(Room):
        text = "declined"

        def prepare(self, configuration: Configuration) -> Prepared:
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


def test_a_process_that_dies_leaves_all_missing_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def dies(*args: object, **options: object) -> dict[str, object]:
        raise WorkerDied("the measuring process ended in stage 'compare' (exit status 3)")

    bench = DeviceBench(Limits(), seed=0, device="cpu")
    monkeypatch.setattr(bench.worker, "call", dies)
    comparison = bench.compare([FIRST, *OTHERS])
    assert comparison.groups == ()
    assert set(comparison.missing) == {c.key for c in (FIRST, *OTHERS)}
    assert "exit status 3" in comparison.missing[FIRST.key]
