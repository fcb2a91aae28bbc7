"""The drivers that measure the measuring work: here in their smallest form, without limits."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import (
    against_do_bench,
    compile_ahead,
    effects_of_table,
    held_stream,
    host_a_layer,
    host_estimators,
    overhead,
    peak_bytes,
    places,
    planted,
    repeats,
    same_numbers,
    same_twice,
    second_check,
    sizes,
    two_gpus,
    wrong_priors,
)
from benchmarks.cases import kind_here
from benchmarks.made_up import MadeUpBench, fill, made_up_plan
from studies.results.results import read_results
from studies.session.session import Session
from studies.space.space import survey
from studies.study.opening import open_study
from studies.study.study import load_study, open_storage
from tests.fake_bench import measurements
from tests.recorded_tables import write_table

TINY = [
    *("--batch", "1", "--seq-len", "64", "--new-tokens", "2", "--q-heads", "2"),
    *("--head-dim", "16", "--score-mod", "none", "--backend", "math,flash"),
    *("--precision", "fp32", "--execution", "eager", "--no-finalists", "--max-stall-ms", "1e6"),
]


def smallest_sizes() -> sizes.Figures:
    """Everything that is done with a study, here in one process."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/s.db"
        fill(url, "s", 30, few=True)
        figures = sizes.resume_and_ask(url, "s", few=True)[0]
        for what in sizes.COMMANDS:
            figures |= sizes.command(what, url, "s")[0]
        return figures | sizes.refresh(url, "s", few=True)[0]


def with_a_table(work: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        work(write_table(Path(folder) / "table.csv"))


def captured_in_a_tiny_model() -> None:
    pytest.importorskip("transformers", reason="needs transformers: pip install '.[hf]'")
    from benchmarks import decoding

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decoding.main(words="math fp32 static eager", new=3, rounds=1, tiny=True)


SMALLEST: dict[str, Callable[[], object]] = {
    "same_twice": lambda: same_twice.one_process(0, 1, 0.01, 1.0),
    "planted": lambda: planted.main(count=1, seconds=0.01, minutes=1.0),
    "repeats": lambda: repeats.one_process(0, 1, 0, 1, 1.0),
    "places": lambda: places.one_process(0, 2, 1),
    "peak_bytes": lambda: peak_bytes.main(count=1, repeats=2, minutes=1.0),
    "host_estimators": lambda: host_estimators.one_process(0, 1, 1, 8, 1.0),
    "decoding": captured_in_a_tiny_model,
    "host_a_layer": lambda: host_a_layer.main(["flash fp32 static"], rounds=1, profile=0),
    "overhead": lambda: overhead.plain(1, 1.0),
    "second_check": lambda: second_check.main(count=1, minutes=1.0, sampling_s=0.02),
    "against_do_bench": lambda: against_do_bench.main(count=1, minutes=0.5),
    "compile_ahead": lambda: compile_ahead.search(1, 0, "random", 1.0),
    "held_stream": lambda: held_stream.main(samples=4),
    "two_gpus": lambda: two_gpus.main(trials=3, device="cpu", minutes=8.0, options=TINY),
    "sizes": lambda: smallest_sizes(),
    "wrong_priors": lambda: with_a_table(
        lambda table: wrong_priors.main(table, trials="4,8", seeds=1)
    ),
    "effects_of_table": lambda: with_a_table(
        lambda table: effects_of_table.main(table, trials=30, seeds=1)
    ),
}


SLOW = {"compile_ahead", "two_gpus"}  # compile, or run whole studies


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SMALLEST],
)
def test_a_driver_runs_and_says_something(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "two_gpus" and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs a core for each worker")
    found = SMALLEST[name]()
    assert found or capsys.readouterr().out


def test_every_driver_is_tried_and_told_of() -> None:
    folder = Path(__file__).parents[1] / "benchmarks"
    drivers = {path.stem for path in folder.glob("*.py")} - {
        "__init__",
        "cases",
        "made_up",
        "same_numbers",
        "tables",
    }
    told = (folder / "README.md").read_text()
    assert drivers == set(SMALLEST)
    assert all(re.search(rf"`python -m benchmarks\.{name}[ `]", told) for name in drivers)


def test_runs_with_one_and_two_workers_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    one = {key: measurements(1.0, 64.0) for key in "abcd"}
    two = {"b": measurements(1.01, 64.0), "d": measurements(1.03, 65.0), "e": measurements(9.0, 1)}
    same_numbers.compare(one, two, 3)
    said = capsys.readouterr().out
    assert "gpu_ms: median 2.00%, largest 3.00%, 50% within 2.0% of 2" in said
    assert "host_ms: median 2.00%, largest 3.00%, 100% within 15.0% of 2" in said
    assert "peak bytes: the same in 1 of 2 (wanted: all, of 3)" in said


def test_identical_bytes_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    if kind_here() == "cuda":
        pytest.skip("here for the CPU's exact allocator")
    peak_bytes.main(count=1, repeats=3, minutes=1.0)
    assert "identical bytes: 100.0% of 3 repeats of 1 configurations" in capsys.readouterr().out


def test_made_up_trials_are_stored_as_real_ones_are(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    fill(url, "filled", 20, few=True)
    plan, bench, storage = made_up_plan(few=True), MadeUpBench(), open_storage(url)
    study = open_study(storage, "real", plan, bench.environment())
    session = Session(study, plan, survey(plan.space, bench.device()), bench, "made-up")
    list(session.baselines.measure_missing())
    for _ in range(20):
        session.trial()
    filled = load_study(storage, "filled")
    evaluations = {
        t.evaluation.configuration.key: t.evaluation for t in read_results(study).trials
    }
    for trial in read_results(filled).trials:
        known = evaluations.get(trial.evaluation.configuration.key, trial.evaluation)
        assert trial.evaluation == known
    real = {trial.state: trial for trial in study.get_trials()}
    for trial in filled.get_trials():
        alike = real[trial.state]
        assert trial.distributions.keys() <= session._sampler.distributions.keys()
        assert all(session._sampler.distributions[n] == d for n, d in trial.distributions.items())
        assert set(trial.user_attrs) - {"reason"} <= set(alike.user_attrs) | {
            *("latency_ms", "peak_memory_mib", "relative_error")
        }
