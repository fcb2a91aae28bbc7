"""What is read from a study or the command line names no file outside of the folder chosen."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import search.profile_command
import search.show_commands
from search.cli import main
from studies.storage.files import write_atomically
from studies.study.study import open_storage
from tests.fake_bench import FakeBench
from tests.studies.session.test_session import run, session

AXES = {"batch": (1,), "seq_len": (512,), "score_mod": ("none",)}
# What each writes in the folder that was named, and how many artifacts it attaches.
COMMANDS = [
    ("report --output out/r.html", {"out/r.html"}, 1),
    ("export --output out/best.json", {"out/best.json"}, 0),
    ("table --output out/t.csv", {"out/t.csv"}, 0),
    ("sensitivity --html out/s.html", {"out/s.html"}, 0),
    ("profile --trial 2 --output out", {"out/trial-2.trace.json"}, 1),
    ("dashboard", set(), 0),
]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, deep enough to be left."""
    folder = tmp_path / "a" / "b"
    (folder / "out").mkdir(parents=True)
    (folder / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder / "temporary"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(search.profile_command, "DeviceBench", lambda *args, **kwargs: FakeBench())
    monkeypatch.setattr(search.show_commands, "serve", lambda *args: None)
    return folder


@pytest.mark.parametrize("name", ["../../x", "/proc/self/x", "a\0b", ".." * 200])
def test_no_command_writes_where_the_name_of_a_study_says(
    here: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    run(session(open_storage("sqlite:///s.db"), axes=AXES, sampler="random", name=name), 3)
    named = [] if "\0" in name else ["--study", name]
    artifacts = 0
    for command, expected, attached in COMMANDS:
        before = files(tmp_path)
        options = [*command.split(), *named, "--storage", "sqlite:///s.db"]
        monkeypatch.setattr(sys, "argv", ["search", *options])
        assert main() == 0, capsys.readouterr().err
        new = {path.removeprefix("a/b/") for path in files(tmp_path) - before}
        assert {path for path in new if not path.startswith("s.db")} == expected, command
        artifacts += attached
        assert len(files(here / "s.db.artifacts")) == artifacts, command


@pytest.mark.parametrize("output", ["..", ".", "out/..", "out", "../.."])
@pytest.mark.parametrize("command", ["export", "report --no-attach"])
def test_an_output_that_is_a_folder_is_refused_and_nothing_is_left(
    here: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    output: str,
) -> None:
    run(session(open_storage("sqlite:///s.db"), axes=AXES, sampler="random"), 2)
    before = files(tmp_path)
    options = [*command.split(), "--output", output, "--storage", "sqlite:///s.db"]
    monkeypatch.setattr(sys, "argv", ["search", *options])
    assert main() == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: --output must be a file that can be written, got ")
    assert errors.count("\n") == 1
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127])
def test_the_longest_names_of_files_can_be_written(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / name, "text")
    assert files(tmp_path) == {name}
