"""Tests of the turns that streams take, with streams that are made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch

from objectives.streams import Turns


class Streams:
    """Some streams, of which the one that is current is known; some have no room."""

    def __init__(self, count: int, without_room: int | None = None) -> None:
        self.current, self.without_room = 0, without_room
        self.visited: list[int] = []
        self.turns = Turns([self._making(number + 1) for number in range(count)], self._visit)

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


def test_a_single_stream_is_the_current_one() -> None:
    assert Streams(0).after(3) == [0, 0, 0]


def test_what_else_goes_wrong_in_a_visit_is_raised() -> None:
    def fail() -> None:
        raise RuntimeError("a launch failed")

    streams = Streams(1)
    streams.turns = Turns([streams._making(1)], fail)
    with pytest.raises(RuntimeError, match="a launch failed"):
        streams.turns.next()
