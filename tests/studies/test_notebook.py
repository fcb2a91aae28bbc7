"""What a notebook is given: results that show themselves, a table, figures."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from optuna.storages import BaseStorage

from objectives.schema.evaluation import Outcome
from studies import notebook
from studies.results.columns import COLUMNS
from studies.results.labels import mebibytes, milliseconds, size, speed
from studies.storage.url import DatabaseUrlError
from studies.study.attributes import StudyError
from studies.study.study import open_storage
from tests.fake_bench import FakeBench
from tests.studies.session.test_session import run, session

ROOT = Path(__file__).resolve().parents[2]


def cells(page: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    return [[html.unescape(c) for c in re.findall(r"<t[dh][^>]*>(.*?)</t", row)] for row in rows]


def test_results_show_each_workloads_default_and_winners(storage_url: str) -> None:
    of = session(open_storage(storage_url), sampler="random", name="a<b")
    run(of, 24)
    results = notebook.open_results("a<b", storage_url)
    page = results._repr_html_()
    assert "<caption>study a&lt;b: NVIDIA H100" in page
    assert "24 of 24 trials measured" in page
    _, *rows = cells(page)
    expected = sum(1 + len(result.winners) for result in results.workloads)
    assert len(rows) == expected
    assert {len(row) for row in rows} == {9}
    place = 0
    for result in results.workloads:
        assert rows[place][1:2] == ["default"]
        for name, winner in result.winners.items():
            place += 1
            row, won = rows[place], winner.candidate
            assert row[1] == name.replace("_", " ")
            assert row[4:8] == [
                milliseconds(won.latency),
                speed(result.latency_ratio(won)),
                mebibytes(won.memory),
                size(won.memory / result.baseline.peak_memory_mib),
            ]
        place += 1


def test_a_default_that_failed_is_shown_as_such(storage_url: str) -> None:
    of = session(open_storage(storage_url), FakeBench(fails={"auto": Outcome.OUT_OF_MEMORY}))
    run(of, 4)
    _, first, *_ = cells(notebook.open_results(storage=storage_url)._repr_html_())
    assert first[2].endswith("OUT_OF_MEMORY")


def test_table_and_figures_are_of_the_study(storage_url: str) -> None:
    of = session(open_storage(storage_url), sampler="random")
    run(of, 12)
    results = notebook.open_results(storage=storage_url)
    assert notebook.as_table(results).trial.notna().sum() == 12
    for figure in (notebook.front_figure(results), notebook.history_figure(results)):
        assert figure.data
    assert notebook.map_figure(results) is not None
    report = notebook.open_sensitivity(storage=storage_url)
    assert "zone" in notebook.sensitivity_figures(report)


def test_reading_in_a_notebook_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatabaseUrlError, match="no such file"):
        notebook.open_results()
    with pytest.raises(DatabaseUrlError, match="no such file"):
        notebook.open_sensitivity()
    assert list(tmp_path.iterdir()) == []


def test_the_environment_says_where_a_study_is(
    storage_url: str, storage: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(session(storage), 1)
    monkeypatch.setenv("GOLDILOCKS_STORAGE", storage_url)
    assert notebook.open_results().study_name == "s"


def test_another_name_is_refused_in_words(storage_url: str, storage: BaseStorage) -> None:
    run(session(storage), 1)
    with pytest.raises(StudyError, match="study must be one of s; got t"):
        notebook.open_results("t", storage_url)


def test_the_blocks_of_the_page_on_notebooks_run_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(session(open_storage("sqlite:///goldilocks.db"), sampler="random"), 12)
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    exec("\n".join(blocks), {})
    cells = re.findall(r"^\| (.+?) \|", page, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(cells))) <= set(COLUMNS)
