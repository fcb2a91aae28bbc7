"""Workers at work at once: all is heard, one that fails ends alone, leaving early ends all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import cast

import pytest

from objectives.trial.bench import Bench
from studies.session.worker_pool import Worker, WorkerPool


class Interruptible:
    """A bench that only knows of its interruption."""

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self.interrupted = threading.Event()

    def interrupt(self) -> None:
        """End what is being measured."""
        self.interrupted.set()


def workers(count: int) -> list[Worker]:
    """Give workers without devices."""
    return [Worker(cast(Bench, Interruptible()), name=f"worker{i}") for i in range(count)]


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.timeout(30)
def test_everything_that_workers_find_is_heard_even_nothing(count: int) -> None:
    team = workers(count)

    def work(worker: Worker) -> Iterator[int | None]:
        yield None
        yield team.index(worker)
        yield None

    heard = [(worker.name, found) for worker, found in WorkerPool(team, work)]
    assert sorted(heard, key=str) == sorted(
        [(f"worker{i}", found) for i in range(count) for found in (None, i, None)], key=str
    )


@pytest.mark.timeout(30)
def test_one_that_fails_ends_alone() -> None:
    good, bad = team = workers(2)

    def work(worker: Worker) -> Iterator[int]:
        yield 1
        if worker is bad:
            raise ValueError("broken")
        yield 2

    heard = list(WorkerPool(team, work))
    assert [found for worker, found in heard if worker is good] == [1, 2]
    assert [str(found) for worker, found in heard if worker is bad] == ["1", "broken"]


@pytest.mark.timeout(30)
def test_what_is_no_error_reaches_whoever_listens_and_interrupts_the_others() -> None:
    first, second = team = workers(2)

    def work(worker: Worker) -> Iterator[int]:
        if worker is first:
            raise KeyboardInterrupt
        yield 1
        assert cast(Interruptible, worker.bench).interrupted.wait(20)
        yield 2

    with pytest.raises(KeyboardInterrupt):
        list(WorkerPool(team, work))
    assert cast(Interruptible, second.bench).interrupted.is_set()


@pytest.mark.timeout(30)
def test_leaving_early_ends_what_is_being_measured() -> None:
    team = workers(3)
    ended: list[str] = []

    def work(worker: Worker) -> Iterator[int]:
        try:
            yield 1
            assert cast(Interruptible, worker.bench).interrupted.wait(20)
            yield 2
            yield 3
        finally:
            ended.append(worker.name)

    for _ in WorkerPool(team, work):
        break
    assert sorted(ended) == ["worker0", "worker1", "worker2"]


@pytest.mark.timeout(30)
def test_a_worker_waits_until_what_it_found_has_been_heard() -> None:
    team = workers(1)
    found = 0

    def work(worker: Worker) -> Iterator[int]:
        nonlocal found
        for found in range(1, 4):  # noqa: UP028 - what is found is looked at
            yield found

    for _, heard in WorkerPool(team, work):
        assert heard == found
