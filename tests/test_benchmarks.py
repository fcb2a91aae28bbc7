"""The drivers that measure the measuring work: here in their smallest form, without limits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import (
    against_do_bench,
    compile_ahead,
    held_stream,
    host_estimators,
    overhead,
    peak_bytes,
    places,
    planted,
    repeats,
    same_twice,
)
from benchmarks.cases import kind_here

SMALLEST: dict[str, Callable[[], object]] = {
    "same_twice": lambda: same_twice.one_process(0, 1, 0.01, 1.0),
    "planted": lambda: planted.main(count=1, seconds=0.01, minutes=1.0),
    "repeats": lambda: repeats.one_process(0, 1, 1, 1.0),
    "places": lambda: places.one_process(0, 2, 1),
    "peak_bytes": lambda: peak_bytes.main(count=1, repeats=2, minutes=1.0),
    "host_estimators": lambda: host_estimators.one_process(0, 1, 1, 8, 1.0),
    "overhead": lambda: overhead.plain(1, 1.0),
    "against_do_bench": lambda: against_do_bench.main(count=1, minutes=0.5),
    "compile_ahead": lambda: compile_ahead.search(1, 0, "random", 1.0),
    "held_stream": lambda: held_stream.main(samples=4),
}


SLOW = {"compile_ahead"}  # compiles, and no cache helps


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SMALLEST],
)
def test_a_driver_runs_and_says_something(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = SMALLEST[name]()
    assert found or capsys.readouterr().out


def test_every_driver_is_tried_and_told_of() -> None:
    folder = Path(__file__).parents[1] / "benchmarks"
    drivers = {path.stem for path in folder.glob("*.py")} - {"__init__", "cases"}
    told = (folder / "README.md").read_text()
    assert drivers == set(SMALLEST)
    assert all(f"`python -m benchmarks.{name}`" in told for name in drivers)


def test_identical_bytes_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    if kind_here() == "cuda":
        pytest.skip("here for the CPU's exact allocator")
    peak_bytes.main(count=1, repeats=3, minutes=1.0)
    assert "identical bytes: 100.0% of 3 repeats of 1 configurations" in capsys.readouterr().out
