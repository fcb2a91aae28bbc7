"""Which GPUs and cores each measuring process gets, on machines that are made up."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pynvml
import pytest

from objectives.process import placement as module
from objectives.process.placement import (
    Placement,
    PlacementError,
    cores_in,
    placements,
    shares,
    visible_gpus,
)
from variants.device import DeviceKind

Machine = Callable[..., None]
UUID = "GPU-9a0b"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """Makes a machine: how many cores a process may use, memory nodes, cores near each GPU."""

    def make(
        cores: int, nodes: Sequence[str] = (), gpus: Sequence[frozenset[int] | None] = ()
    ) -> None:
        for number, text in enumerate(nodes):
            (tmp_path / f"node{number}").mkdir()
            (tmp_path / f"node{number}" / "cpulist").write_text(text + "\n")
        monkeypatch.setattr(module, "_NODES", tmp_path)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))

        def affinity(handle: int, words: int) -> list[int]:
            near = gpus[handle]
            if near is None:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            assert words * 64 >= cores
            return [
                sum(1 << (core - 64 * word) for core in near if core // 64 == word)
                for word in range(words)
            ]

        monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: len(gpus))
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
        monkeypatch.setattr(
            pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: {UUID: len(gpus) - 1}[uuid]
        )
        monkeypatch.setattr(pynvml, "nvmlDeviceGetCpuAffinity", affinity)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return make


def of(*texts: str) -> list[frozenset[int]]:
    return [cores_in(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("0-3,8\n", {0, 1, 2, 3, 8}),
        ("7", {7}),
        ("10-11,20-21", {10, 11, 20, 21}),
        ("\n", set()),
    ],
)
def test_the_kernels_lists(text: str, cores: set[int]) -> None:
    assert cores_in(text) == cores


@pytest.mark.parametrize(
    ("near", "expected"),
    [
        # Two of one node: a share for each, and one for the process that proposes.
        (of("0-8", "0-8"), ["0-2", "3-5"]),
        (of("0-7", "8-15"), ["0-3", "8-11"]),
        (of("0-11", "12-23", "0-11", "12-23"), ["0-3", "12-15", "4-7", "16-19"]),
        # Too few for that: two each, or what there is.
        (of("0-3", "0-3"), ["0-1", "2-3"]),
        (of("0-1", "0-1"), ["0", "1"]),
        (of("0", "0"), ["", ""]),
        # Where one may use all, it takes none that another has.
        (of("0-3", "0-7"), ["0-1", "2-4"]),
    ],
)
def test_cores_are_shared_equally_and_none_twice(
    near: list[frozenset[int]], expected: list[str]
) -> None:
    found = shares(near)
    assert list(map(frozenset, found)) == of(*expected)
    taken = [core for cores in found for core in cores]
    assert len(taken) == len(set(taken))
    assert all(set(cores) <= its for cores, its in zip(found, near, strict=True))


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, ["cpu"]),
        (2, ["cpu:0-3", "cpu:4-7"]),
        (3, ["cpu:0-1", "cpu:2-3", "cpu:4-5"]),
        (8, [f"cpu:{core}" for core in range(8)]),
        (None, ["cpu:0-3", "cpu:4-7"]),  # its memory nodes
    ],
)
def test_a_cpu_is_divided_into_sets_of_cores(
    count: int | None, expected: list[str], machine: Machine
) -> None:
    machine(8, ["0-3", "4-7"])
    found = placements("cpu", count)
    assert [placement.name for placement in found] == expected
    if len(found) > 1:
        named = of(*(name.removeprefix("cpu:") for name in expected))
        assert [frozenset(placement.cores) for placement in found] == named
    else:
        assert found == [Placement("cpu")]  # a single one may use all, as a run without placements
    assert not any(placement.variables for placement in found)


@pytest.mark.parametrize(
    ("cores", "nodes", "expected"),
    [
        (8, (), ["cpu"]),  # a kernel that does not say
        (8, ("0-7",), ["cpu"]),
        (8, ("0-7", "8-15"), ["cpu"]),  # only the first is allowed
        (8, ("0-1,4", "2-3,5-7"), ["cpu:0,1,4", "cpu:2,3,5"]),  # as many threads in each
        (16, (*("0-7,16-23", "8-15"), *[""] * 9), ["cpu:0-7", "cpu:8-15"]),
    ],
)
def test_all_of_a_cpu_are_the_memory_nodes_that_it_may_use(
    cores: int, nodes: Sequence[str], expected: list[str], machine: Machine
) -> None:
    machine(cores, nodes)
    assert [placement.name for placement in placements("cpu", None)] == expected


def test_memory_nodes_come_in_the_order_of_their_numbers(machine: Machine) -> None:
    machine(12, [str(number) for number in range(12)])
    assert [placement.cores for placement in placements("cpu", None)] == [
        (number,) for number in range(12)
    ]


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (None, ["0", "1", "2"]),
        ("1,0", ["1", "0"]),
        (f" 2 , {UUID}", ["2", UUID]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["0"]),  # as CUDA reads it
    ],
)
def test_visible_gpus(
    named: str | None, expected: list[str], machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(4, gpus=[None] * 3)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == expected


def test_without_nvml_no_gpu_is_visible(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    machine(4)
    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert visible_gpus() == []
    assert (
        placements("cuda", None) == placements("cuda", 1) == [Placement("cuda")]
    )  # its process says so


def test_each_gpu_has_cores_on_its_side_of_the_machine(machine: Machine) -> None:
    # More than a word of them; the process may use 80 of the 96 that NVML names.
    machine(80, gpus=of("0-39", "40-95"))
    first, second = placements("cuda", None)
    assert first == Placement("cuda:0", {"CUDA_VISIBLE_DEVICES": "0"}, tuple(range(20)))
    assert second == Placement("cuda:1", {"CUDA_VISIBLE_DEVICES": "1"}, tuple(range(40, 60)))


def test_gpus_are_passed_on_as_they_are_named(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(8, gpus=of("0-3", "0-3", "4-7"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{UUID},1")
    found = placements("cuda", 2)
    assert [placement.name for placement in found] == ["cuda:0", "cuda:1"]
    assert [placement.variables["CUDA_VISIBLE_DEVICES"] for placement in found] == [UUID, "1"]
    assert [placement.cores for placement in found] == [(4, 5), (0, 1)]


def test_where_nvml_does_not_know_what_is_near_all_cores_are(machine: Machine) -> None:
    machine(6, gpus=[None, frozenset({64, 65})])  # and where none that is near is allowed
    assert [placement.cores for placement in placements("cuda", 2)] == [(0, 1), (2, 3)]


def test_one_gpu_of_several_is_the_first_and_has_the_whole_machine(machine: Machine) -> None:
    machine(8, gpus=of("0-3", "4-7"))
    assert placements("cuda", 1) == [Placement("cuda")]


@pytest.mark.parametrize(
    ("kind", "count", "said"),
    [
        ("cuda", 3, "at most 2, one for each GPU that is visible; got 3"),
        ("cpu", 5, "at most 4, one for each core; got 5"),
    ],
)
def test_there_are_no_more_than_the_machine_has(
    kind: DeviceKind, count: int, said: str, machine: Machine
) -> None:
    machine(4, gpus=[None, None])
    with pytest.raises(PlacementError, match=f"^{said}$"):
        placements(kind, count)
