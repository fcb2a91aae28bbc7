"""The drivers that measure the measuring work: here in their smallest form, without limits."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import (
    against_do_bench,
    held_stream,
    host_estimators,
    overhead,
    peak_bytes,
    places,
    planted,
    repeats,
    same_twice,
    two_gpus,
)
from benchmarks.cases import kind_here
from tests.fake_bench import measurements

TINY = [
    *("--batch", "1", "--seq-len", "64", "--new-tokens", "2", "--q-heads", "2"),
    *("--head-dim", "16", "--score-mod", "none", "--backend", "math,flash"),
    *("--precision", "fp32", "--execution", "eager", "--no-finalists", "--max-stall-ms", "1e6"),
]

SMALLEST: dict[str, Callable[[], object]] = {
    "same_twice": lambda: same_twice.one_process(0, 1, 0.01, 1.0),
    "planted": lambda: planted.main(count=1, seconds=0.01, minutes=1.0),
    "repeats": lambda: repeats.one_process(0, 1, 1, 1.0),
    "places": lambda: places.one_process(0, 2, 1),
    "peak_bytes": lambda: peak_bytes.main(count=1, repeats=2, minutes=1.0),
    "host_estimators": lambda: host_estimators.one_process(0, 1, 1, 8, 1.0),
    "overhead": lambda: overhead.plain(1, 1.0),
    "against_do_bench": lambda: against_do_bench.main(count=1, minutes=0.5),
    "held_stream": lambda: held_stream.main(samples=4),
    "two_gpus": lambda: two_gpus.main(trials=3, device="cpu", minutes=8.0, options=TINY),
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SMALLEST)
def test_a_driver_runs_and_says_something(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "two_gpus" and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs a core for each worker")
    found = SMALLEST[name]()
    assert found or capsys.readouterr().out


def test_every_driver_is_tried_and_told_of() -> None:
    folder = Path(__file__).parents[1] / "benchmarks"
    drivers = {path.stem for path in folder.glob("*.py")} - {"__init__", "cases"}
    told = (folder / "README.md").read_text()
    assert drivers == set(SMALLEST)
    assert all(f"`python -m benchmarks.{name}`" in told for name in drivers)


def test_runs_with_one_and_two_workers_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    one = {key: measurements(1.0, 64.0) for key in "abcd"}
    two = {"b": measurements(1.01, 64.0), "d": measurements(1.03, 65.0), "e": measurements(9.0, 1)}
    two_gpus.compare(one, two, 3)
    said = capsys.readouterr().out
    assert "gpu_ms: median 2.00%, largest 3.00%, 50% within 2.0% of 2" in said
    assert "host_ms: median 2.00%, largest 3.00%, 100% within 15.0% of 2" in said
    assert "peak bytes: the same in 1 of 2 (wanted: all, of 3)" in said


def test_identical_bytes_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    if kind_here() == "cuda":
        pytest.skip("here for the CPU's exact allocator")
    peak_bytes.main(count=1, repeats=3, minutes=1.0)
    assert "identical bytes: 100.0% of 3 repeats of 1 configurations" in capsys.readouterr().out
