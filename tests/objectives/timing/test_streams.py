"""Tests of the turns that streams take, with streams that are made up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch

import objectives.timing.streams as streams_module
from objectives.timing.streams import HOLD_CYCLES, IN_TURNS, StreamRotation, fastest


def test_those_of_least_cost_are_chosen_whether_or_not_streams_compare() -> None:
    costs = {complex(n): cost for n, cost in enumerate((0.147, 0.136, 0.148, 0.134, 0.135, 0.137))}
    assert fastest(list(costs), lambda one, hold: costs[one]) == [3, 4, 1, 5]
    assert len(fastest(list(costs), lambda one, hold: 0.135)) == IN_TURNS
    assert fastest([1j], lambda one, hold: 0.135) == [1j]


@pytest.mark.parametrize("long_enough", [*HOLD_CYCLES, None])
def test_streams_are_held_longer_where_the_host_is_slow(long_enough: int | None) -> None:
    asked: list[int] = []

    def cost(number: int, hold: int) -> float:
        asked.append(hold)
        return math.inf if long_enough is None or hold < long_enough else 0.15 - number / 1e3

    assert fastest(range(5), cost) == ([0, 1, 2, 3] if long_enough is None else [4, 3, 2, 1])
    tried = [hold for hold in HOLD_CYCLES if long_enough is None or hold <= long_enough]
    assert asked == [hold for hold in tried for _ in range(5)]


def test_streams_that_were_not_held_are_not_chosen_before_others() -> None:
    costs = [0.13, math.inf, 0.14, 0.15, 0.16, math.inf]
    assert fastest(range(6), lambda number, hold: costs[number]) == [0, 2, 3, 4]


class Streams:
    """Some streams, of which the one that is current is known; some have no room."""

    def __init__(self, count: int, without_room: int | None = None) -> None:
        self.current, self.without_room = 0, without_room
        self.visited: list[int] = []
        self.turns = StreamRotation(
            [self._making(number + 1) for number in range(count)], self._visit
        )

    def _making(self, number: int) -> Callable[[], AbstractContextManager[object]]:
        return lambda: self._on(number)

    @contextmanager
    def _on(self, number: int) -> Iterator[None]:
        self.current = number
        try:
            yield
        finally:
            self.current = 0

    def _visit(self) -> None:
        if self.current == self.without_room:
            raise torch.OutOfMemoryError("no room")
        self.visited.append(self.current)

    def after(self, turns: int) -> list[int]:
        seen = []
        for _ in range(turns):
            with self.turns.next():
                seen.append(self.current)
        assert self.current == 0
        return seen


def test_streams_take_turns_and_each_is_visited_before_its_first() -> None:
    streams = Streams(3)
    assert streams.after(9) == [1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert streams.visited == [1, 2, 3]


@pytest.mark.parametrize(
    ("without_room", "expected"), [(1, [0, 0, 0]), (2, [1, 0, 1]), (3, [1, 2, 0])]
)
def test_streams_beyond_the_room_for_them_are_left_out(
    without_room: int, expected: list[int]
) -> None:
    streams = Streams(3, without_room)
    assert streams.after(3) == expected
    assert streams.visited == list(range(1, without_room))


@pytest.mark.parametrize("crowded", [1, 2, 3, None])
def test_a_stream_that_fits_only_where_others_give_up_what_they_keep_has_no_room(
    monkeypatch: pytest.MonkeyPatch, crowded: int | None
) -> None:
    retries, settled, visited = 7, list[int](), list[int]()
    streams = Streams(3)

    def visit() -> None:
        nonlocal retries
        visited.append(streams.current)
        retries += streams.current == crowded

    monkeypatch.setattr(torch.cuda, "memory_stats", lambda: {"num_alloc_retries": retries})
    monkeypatch.setattr(streams_module, "settle", lambda: settled.append(streams.current))
    streams.turns = StreamRotation([streams._making(number + 1) for number in range(3)], visit)
    seen = streams.after(8)
    last = 3 if crowded is None else crowded - 1
    assert seen == [(turn + 1) % (last + 1) for turn in range(8)]
    assert visited == list(range(1, min(3, last + 1) + 1))
    assert settled == ([] if crowded is None else [0])


def test_a_single_stream_is_the_current_one() -> None:
    assert Streams(0).after(3) == [0, 0, 0]


def test_what_else_goes_wrong_in_a_visit_is_raised() -> None:
    def fail() -> None:
        raise RuntimeError("a launch failed")

    streams = Streams(1)
    streams.turns = StreamRotation([streams._making(1)], fail)
    with pytest.raises(RuntimeError, match="a launch failed"):
        streams.turns.next()
