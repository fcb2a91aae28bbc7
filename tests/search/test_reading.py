"""A command that only reads makes nothing: no database, no folder, no file beside one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from search import cli
from studies.study.study import open_storage
from tests.search.fake_cli import fake_devices
from tests.studies.session.test_session import run, session

READING = [
    "run --dry-run",
    "run --dry-run --study new",
    "run --dry-run --probe 4 --study new",
    "show",
    "sensitivity",
    "report",
    "export",
    "table",
    "table --output t.csv",
    "dashboard",
    "profile --trial 0",
    "verify best.json",
    "support --device-profile h100",
]


def typed(line: str, patch: pytest.MonkeyPatch) -> int:
    patch.setattr(sys, "argv", ["search", *line.split()])
    return cli.main()


@pytest.mark.parametrize("named", ["", "sqlite:///study.db", "sqlite:///folder/study.db"])
@pytest.mark.parametrize("line", READING)
def test_nothing_is_made_where_nothing_is(
    line: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if named:
        monkeypatch.setenv("GOLDILOCKS_STORAGE", named)
    with fake_devices() as patch:
        typed(line, patch)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_a_stored_study_reads_it_and_adds_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    of = session(open_storage("sqlite:///goldilocks.db"), sampler="random", name="s")
    run(of, 2)
    with fake_devices() as patch:
        assert typed("run --dry-run --study s", patch) == 0
        known = capsys.readouterr().out
        assert typed("run --dry-run --study other", patch) == 0
    # The space of the study that is there, not the defaults of a new one.
    assert f"{of.survey.size} possible" in known
    assert f"{of.survey.size} possible" not in capsys.readouterr().out
    assert [each.name for each in (tmp_path).glob("*.artifacts")] == []


@pytest.mark.parametrize(
    "options",
    [
        "--workers 0",
        "--q-heads 4 --kv-heads 3",
        "--backend flsh",
        "--sampler best",
        "--patience 3 --sampler tpe",
        "--backend math --precision bf16 --cache paged",  # that no device can run
    ],
)
def test_a_run_that_cannot_begin_leaves_no_database(
    options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with fake_devices() as patch:
        assert typed(f"run --study s {options}", patch) == 2
    assert list(tmp_path.iterdir()) == []
