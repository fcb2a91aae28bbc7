"""The table of all trials: the same columns of the same types, whatever measured them."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
from optuna.storages import InMemoryStorage

from objectives.schema.evaluation import Outcome
from search import cli
from studies.replay.table import MEASURED, read_table
from studies.results.columns import COLUMNS, STAGES
from studies.results.results import as_table, read_results
from studies.study.study import open_storage
from tests.fake_bench import FakeBench
from tests.studies.session.test_session import run, session

AXES = {"batch": (1, 4), "seq_len": (512,), "score_mod": ("none",)}


def table_of(bench: FakeBench, trials: int = 6, name: str = "s") -> pd.DataFrame:
    of = session(InMemoryStorage(), bench, axes=AXES, sampler="random", name=name)
    run(of, trials)
    return as_table(read_results(of.study))


def test_columns_and_types_are_the_same_whatever_was_measured() -> None:
    gpu = table_of(FakeBench())
    assert list(gpu.columns) == list(COLUMNS)
    failing = {name: Outcome.CRASHED for name in ("eager", "math", "flash", "efficient", "flex")}
    for other in (
        table_of(FakeBench(profile="cpu")),
        table_of(FakeBench(fails=failing)),
        table_of(FakeBench(), trials=0),
    ):
        assert list(other.columns) == list(gpu.columns)
        assert other.dtypes.equals(gpu.dtypes)


def test_rows_say_where_they_were_measured() -> None:
    gpu, cpu = table_of(FakeBench(), name="g"), table_of(FakeBench(profile="cpu"), name="c")
    both = pd.concat([gpu, cpu])
    assert both.groupby("study").device.unique().map(list).to_dict() == {
        "g": [FakeBench().device().name],
        "c": [FakeBench(profile="cpu").device().name],
    }
    assert set(gpu.torch) == {FakeBench().device().torch}
    assert set(gpu.environment.dropna()) == {1}


def test_rows_of_earlier_environments_keep_their_device(tmp_path: Path) -> None:
    from studies.study.opening import open_study
    from studies.study.plan import plan_of

    storage, other = open_storage(f"sqlite:///{tmp_path / 's.db'}"), FakeBench(profile="h200")
    of = session(storage, axes=AXES, sampler="random")
    run(of, 2)
    open_study(storage, "s", plan_of(of.study), other.environment(), new_environment=True)
    moved = session(storage, other, axes=AXES, sampler="random")
    run(moved, 2)
    table = as_table(read_results(moved.study))
    names = [FakeBench().device().name, other.device().name]
    told = table[table.trial.notna()]
    assert told.device.tolist() == [names[0]] * 2 + [names[1]] * 2
    assert told.environment.tolist() == [1, 1, 2, 2]
    assert set(table[table.trial.isna()].device) == {names[0]}


def test_what_a_stage_took_has_a_column_and_others_are_kept() -> None:
    of = session(InMemoryStorage(), FakeBench(), axes=AXES, sampler="random")
    run(of, 1)
    results = read_results(of.study)
    (trial,) = results.trials
    odd = trial.evaluation.model_copy(update={"seconds": {"of another version": 1.0}})
    object.__setattr__(trial, "evaluation", odd)
    assert list(as_table(results).columns) == [*COLUMNS, "seconds of another version"]
    assert {f"seconds {stage}" for stage in STAGES} < set(COLUMNS)


def test_no_column_of_ours_is_taken_for_an_axis(tmp_path: Path) -> None:
    axes = AXES | {"precision": ("bf16",), "backend": ("flash", "math")}
    of = session(InMemoryStorage(), axes=axes, sampler="sweep")
    run(of, of.survey.size)
    table = as_table(read_results(of.study))
    for number, name in enumerate(sorted(MEASURED & set(table.columns))):
        if name not in ("trial", "outcome", "peak_mib", "latency_ms", "reason"):
            table[name] = [str(1 + number + row) for row in range(len(table))]  # all of them vary
    table["relative_error"] = 0.001
    table.to_csv(tmp_path / "t.csv", index=False)
    assert read_table(tmp_path / "t.csv").unknown == ()


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(session(open_storage("sqlite:///goldilocks.db"), axes=AXES, sampler="random"), 1)
    for name in ("pyarrow", "pyarrow.parquet", "fastparquet"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(sys, "argv", ["search", "table", "--output", "t.parquet"])
    assert cli.main() == 2
    assert "needs pyarrow, which is not installed: pip install '.[parquet]'" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "t.parquet").exists()


def test_parquet_keeps_the_types_of_empty_columns(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install '.[parquet]'")
    for name, bench in (("gpu", FakeBench()), ("cpu", FakeBench(profile="cpu"))):
        table_of(bench).to_parquet(tmp_path / f"{name}.parquet", index=False)
    read = [pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("gpu", "cpu")]
    assert read[0].dtypes.equals(read[1].dtypes)
