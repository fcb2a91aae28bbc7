"""CoreSelector at full speed, on a machine whose cores are slow at will."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection
from pathlib import Path

import pytest
import torch

from objectives.timing.affinity import (
    AUTOGRAD,
    REFRESH,
    REMEMBERED,
    CoreSelector,
    _launching,
    _work,
)


class Machine:
    """CoreSelector with a speed each, and one thread; looking at a core takes a second."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds, self.allowed = seconds, set(seconds)
        self.refused: set[int] = set()  # cores
        self.bound: set[int] = set()  # threads
        self.looks, self.time = 0, 0.0
        self.others: dict[int, set[int]] = {}  # where threads beside this one may run

    @property
    def core(self) -> int:
        return min(self.allowed)

    def work(self) -> float:
        self.looks += 1
        self.time += 1.0
        return self.seconds[self.core]

    def move(self, pid: int, cores: Collection[int]) -> None:
        if pid in self.bound or self.refused & set(cores):
            raise PermissionError
        if pid == 0:
            self.allowed = set(cores)
        elif pid in self.others:
            self.others[pid] = set(cores)
        else:
            raise ProcessLookupError

    def launching(self) -> tuple[int, ...]:
        return (0, *self.others)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    one = Machine({0: 2.0, 1: 1.9, 2: 1.0, 3: 1.05})
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(one.allowed))
    monkeypatch.setattr("os.sched_setaffinity", one.move)
    return one


def cores(machine: Machine, near: frozenset[int] = frozenset()) -> CoreSelector:
    return CoreSelector(near, machine.work, lambda: machine.time, machine.launching)


def test_the_thread_goes_to_the_fastest_core_and_home_again(machine: Machine) -> None:
    with cores(machine) as found:
        assert found.settle() == 1.0
        assert machine.allowed == {2}
    assert machine.allowed == {0, 1, 2, 3}


def test_it_goes_home_after_an_error(machine: Machine) -> None:
    def fail() -> None:
        with cores(machine) as found:
            found.settle()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert machine.allowed == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("near", "taken"), [({0, 1}, 1), ({3, 9}, 3), ({8, 9}, 2)], ids=["two", "one", "none allowed"]
)
def test_cores_of_the_other_side_are_not_taken(
    machine: Machine, near: set[int], taken: int
) -> None:
    with cores(machine, frozenset(near)) as found:
        found.settle()
        assert machine.allowed == {taken}


def test_a_thread_stays_on_a_core_at_full_speed(machine: Machine) -> None:
    with cores(machine) as found:
        found.settle()
        looks = machine.looks
        for _ in range(5):
            found.settle()
        assert machine.allowed == {2}
        assert machine.looks == looks + 5  # no other core was looked at


def test_a_core_that_has_become_slow_is_left(machine: Machine) -> None:
    with cores(machine) as found:
        found.settle()
        machine.seconds[2] = 2.0
        assert found.settle() == pytest.approx(1 / 1.05)
        assert machine.allowed == {3}


def test_what_was_learnt_outlives_the_context(machine: Machine) -> None:
    found = cores(machine)
    with found:
        found.settle()
    machine.seconds |= {2: 1.9, 3: 1.8}
    with found:
        assert found.settle() == pytest.approx(1 / 1.8)
        assert machine.allowed == {3}


def test_where_all_are_slow_it_is_not_looked_at_every_step(machine: Machine) -> None:
    with cores(machine) as found:
        found.settle()
        machine.seconds = dict.fromkeys(range(4), 2.0)
        found.settle()  # looks at this one and all four
        looks = machine.looks
        for _ in range(20):
            found.settle()
        assert machine.looks == looks + 20
        machine.time += 100.0
        found.settle()
        assert machine.looks == looks + 20 + 5


def test_a_short_burst_of_clock_is_not_full_speed(machine: Machine) -> None:
    with cores(machine) as found:
        machine.seconds = dict.fromkeys(range(4), 0.8)
        found.settle()
        machine.seconds = dict.fromkeys(range(4), 1.0)
        assert found.settle() == pytest.approx(0.8)
        for _ in range(10 * REFRESH):
            found.settle()
        assert found.settle() == 1.0


def test_full_speed_is_found_where_all_were_slow_at_first_or_will_be_for_good(
    machine: Machine,
) -> None:
    machine.seconds = dict.fromkeys(range(4), 2.0)
    with cores(machine) as found:
        assert found.settle() == 1.0  # for all that is known
        machine.seconds = dict.fromkeys(range(4), 1.0)
        for _ in range(2 * REFRESH):
            found.settle()
        machine.seconds = dict.fromkeys(range(4), 2.0)
        assert found.settle() == 0.5
        for _ in range(2 * REMEMBERED):
            found.settle()
        assert found.settle() == 1.0


def test_threads_that_launch_for_this_one_go_along_and_home_again(machine: Machine) -> None:
    machine.others = {7: {0, 1, 2, 3}, 8: {0, 1, 2, 3}}
    with cores(machine) as found:
        found.settle()
        assert machine.allowed == machine.others[7] == machine.others[8] == {2}
        del machine.others[8]
        machine.seconds[2] = 2.0
        found.settle()
        assert machine.allowed == machine.others[7] == {3}
    assert machine.allowed == machine.others[7] == {0, 1, 2, 3}


def test_a_thread_that_may_not_go_along_keeps_nobody(machine: Machine) -> None:
    machine.others = {7: {0, 1, 2, 3}}
    machine.bound = {7}
    with cores(machine) as found:
        found.settle()
        assert (machine.allowed, machine.others[7]) == ({2}, {0, 1, 2, 3})
    assert machine.allowed == {0, 1, 2, 3}


def test_autograds_threads_are_told_by_their_names() -> None:
    told, end = threading.Event(), threading.Event()

    def work() -> None:
        Path("/proc/thread-self/comm").write_text(f"{AUTOGRAD}0")
        told.set()
        end.wait()

    thread = threading.Thread(target=work)
    before = _launching()
    thread.start()
    try:
        assert told.wait(10)
        assert set(_launching()) == {*before, thread.native_id}
        assert before[0] == 0
    finally:
        end.set()
        thread.join()


@pytest.mark.cuda
def test_the_thread_of_a_backward_pass_on_cuda_goes_along_and_home_again() -> None:
    torch.ones(2, device="cuda", requires_grad=True).sum().backward()
    _, *others = _launching()
    assert others
    before = [os.sched_getaffinity(thread) for thread in others]
    with CoreSelector() as found:
        found.settle()
        assert all(os.sched_getaffinity(thread) == os.sched_getaffinity(0) for thread in others)
    assert [os.sched_getaffinity(thread) for thread in others] == before


def test_one_core_is_not_looked_at(machine: Machine) -> None:
    machine.allowed = {1}
    with cores(machine) as found:
        assert found.settle() == 1.0
    assert (machine.allowed, machine.looks) == ({1}, 0)


def test_a_core_that_is_taken_away_is_left_out(machine: Machine) -> None:
    machine.refused = {2}
    with cores(machine) as found:
        found.settle()
        assert machine.allowed == {3}


def test_a_thread_that_may_not_choose_stays(machine: Machine) -> None:
    machine.refused = {0, 1, 2, 3}
    with cores(machine) as found:
        assert found.settle() == 1.0
    assert machine.allowed == {0, 1, 2, 3}


def test_the_real_work_is_timed_and_the_thread_comes_home() -> None:
    before, found = os.sched_getaffinity(0), CoreSelector()
    with found:
        found.settle()
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before
    assert _work() > 0
