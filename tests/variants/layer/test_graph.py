"""Where a captured step stands and what it keeps, with graphs that replay by running again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import Tensor

import variants.layer.graph as graph_module
from variants.layer.graph import Graph

FIRST, STEPS = 3, 4  # positions; there is room for no other behind them
CAPTURE_FAILS, LAUNCH_FAILS = "capture_end", "replay"


class Stream:
    def wait_stream(self, other: Stream) -> None:
        pass


class FakeGraph:
    """Runs what was recorded. A capture itself computes nothing."""

    capturing: FakeGraph | None = None
    fails: tuple[str, str] = ("", "")  # at what, and what is said

    def __init__(self) -> None:
        self.work: Callable[[], None] = lambda: None
        self.failed = ("", "")

    def pool(self) -> tuple[int, int]:
        return 0, 1

    def capture_begin(self, pool: tuple[int, int] | None = None) -> None:
        FakeGraph.capturing = self

    def capture_end(self) -> None:
        FakeGraph.capturing = None
        self._fail(CAPTURE_FAILS)

    def replay(self) -> None:
        self._fail(LAUNCH_FAILS)
        self.work()

    def _fail(self, what: str) -> None:
        if FakeGraph.fails[0] == what:
            self.failed = FakeGraph.fails
        if self.failed[0] == what:  # for good
            raise RuntimeError(self.failed[1])


@contextmanager
def fake_capture(graph: FakeGraph, stream: Stream) -> Iterator[None]:
    graph.capture_begin()
    yield
    graph.capture_end()


@pytest.fixture(autouse=True)
def _no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", fake_capture)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(graph_module, "capture_stream", Stream)
    monkeypatch.setattr(FakeGraph, "fails", ("", ""))


class Summing:
    """A step that keeps what it is given at its position, and sums up all until there."""

    def __init__(self) -> None:
        self.kept = torch.ones(FIRST + STEPS)

    def step(self, hidden: Tensor, position: Tensor) -> Tensor:
        out = torch.empty(())

        def work() -> None:
            self.kept[position] = hidden
            out.copy_(self.kept[: int(position) + 1].sum())
            position.add_(1)

        if FakeGraph.capturing is None:
            work()
        else:
            FakeGraph.capturing.work = work
        return out


def given(index: int) -> Tensor:
    return torch.tensor([10.0**index])


EXPECTED = [FIRST + 1.0, FIRST + 11.0, FIRST + 111.0, FIRST + 1111.0]


def a_pass(graph: Graph, before: Callable[[int], object] = lambda index: None) -> list[float]:
    found = []
    for index in range(STEPS):
        before(index)
        found.append(float(graph.replay(given(index), FIRST + index)))
    return found


@pytest.mark.parametrize("moved", [set(), {0}, {1}, {3}, {0, 1, 2, 3}])
def test_a_step_that_is_captured_again_goes_on_where_it_stands(moved: set[int]) -> None:
    summing = Summing()
    graph = Graph(summing.step, given(0), position=FIRST)
    inputs = {graph._hidden.data_ptr()}

    def before(index: int) -> None:
        if index in moved:
            graph.move(summing.step, FIRST + index, 512 * index)
            inputs.add(graph._hidden.data_ptr())
            assert graph._expected == FIRST + index  # the next replay launches nothing else
            assert graph._hidden.storage_offset() * graph._hidden.itemsize == 512 * index

    for _ in range(3):
        assert a_pass(graph, before) == EXPECTED
    assert (len(inputs) > 1) == bool(moved)


@pytest.mark.parametrize("fails", [CAPTURE_FAILS, LAUNCH_FAILS])
def test_where_the_driver_has_no_memory_what_was_captured_before_is_kept(fails: str) -> None:
    summing = Summing()
    graph = Graph(summing.step, given(0), position=FIRST)

    def before(index: int) -> None:
        FakeGraph.fails = fails, "CUDA error: out of memory"
        with pytest.raises(torch.OutOfMemoryError):
            graph.move(summing.step, FIRST + index, 512)
        FakeGraph.fails = "", ""

    for _ in range(2):
        assert a_pass(graph, before) == EXPECTED


@pytest.mark.parametrize("fails", [CAPTURE_FAILS, LAUNCH_FAILS])
def test_other_errors_of_the_driver_stay_what_they_are(fails: str) -> None:
    summing = Summing()
    graph = Graph(summing.step, given(0), position=FIRST)
    FakeGraph.fails = fails, "CUDA error: an illegal memory access was encountered"
    with pytest.raises(RuntimeError, match="illegal") as raised:
        graph.move(summing.step, FIRST, 512)
    assert not isinstance(raised.value, torch.OutOfMemoryError)


def test_a_step_that_fails_ends_its_capture_and_the_one_before_is_kept() -> None:
    summing = Summing()
    graph = Graph(summing.step, given(0), position=FIRST)

    def failing(hidden: Tensor, position: Tensor) -> Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        graph.move(failing, FIRST, 512)
    assert FakeGraph.capturing is None
    assert a_pass(graph) == EXPECTED
