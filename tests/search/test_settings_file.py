"""A settings file says what options would; what is typed wins."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from search import cli
from search.options.settings_file import came_from_file
from tests.search.fake_cli import fake_devices


def context_of(command: str, *words: str) -> typer.Context:
    root: Any = typer.main.get_command(cli.app)
    above = typer.Context(root, info_name="search")
    made: typer.Context = root.commands[command].make_context(command, list(words), parent=above)
    return made


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GOLDILOCKS_STORAGE", raising=False)


def written(text: str) -> None:
    Path("s.toml").write_text(text, encoding="utf-8")


def typed(line: str, patch: pytest.MonkeyPatch) -> int:
    patch.setattr(sys, "argv", ["search", *line.split()])
    return cli.main()


EXAMPLES: dict[str, tuple[str, Any]] = {
    "trials": ("7", 7),
    "minutes": ("2", 2.0),
    "patience": ("3", 3),
    "probe": ("4", 4),
    "batch": ("[1, 8]", "1,8"),
    "seq-len": ("4096", "4096"),
    "backend": ('["flash", "eager"]', "flash,eager"),
    "score-mod": ('"none,alibi"', "none,alibi"),
    "max-error": ("0.05", 0.05),
    "max-memory-gib": ("1.5", 1.5),
    "deadline-s": ("30", 30.0),
    "sampler": ('"tpe"', "tpe"),
    "seed": ("5", 5),
    "workers": ("2", "2"),
    "compile-ahead": ("1", 1),
    "device": ('"cpu"', "cpu"),
    "storage": ('"sqlite:///other.db"', "sqlite:///other.db"),
    "study": ('"s"', "s"),
    "finalists": ("false", False),
    "new-environment": ("true", True),
    "take-over": ("true", True),
    "dry-run": ("true", True),
    "json": ("true", True),
    "quiet": ("true", True),
    "preset": ('"goldilocks"', "goldilocks"),
    "model": ('"gpt2"', "gpt2"),
    "space": ('"space.toml"', Path("space.toml")),
}


def name_of(key: str) -> str:
    return {"json": "as_json"}.get(key, key.replace("-", "_"))


@pytest.mark.parametrize("key", EXAMPLES)
def test_an_option_of_run_comes_from_the_file_unless_it_is_typed(key: str) -> None:
    text, expected = EXAMPLES[key]
    written(f"{key} = {text}\n")
    context = context_of("run", "--settings", "s.toml")
    assert context.params[name_of(key)] == expected
    assert came_from_file(context, name_of(key))
    written(f"{key.replace('-', '_')} = {text}\n")  # as Python and TOML spell names
    assert context_of("run", "--settings", "s.toml").params[name_of(key)] == expected


def test_every_option_of_every_command_may_stand_in_a_file() -> None:
    """By its name and its type: what a file may not say is refused in words that list the rest."""
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        written("nonsense = 1\n")
        with pytest.raises(Exception, match=f"must be an option of {name}: (.*); got") as raised:
            command.make_context(name, ["--settings", "s.toml"])
        listed = str(raised.value).partition(f"option of {name}: ")[2].rpartition("; got")[0]
        options = {
            option.removeprefix("--")
            for parameter in command.params
            if parameter.param_type_name == "option"
            for option in parameter.opts
        }
        assert set(listed.split(", ")) == options - {"settings", "help"}


def test_what_is_typed_wins_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    written('trials = 7\nseed = 5\nstorage = "sqlite:///file.db"\n')
    monkeypatch.setenv("GOLDILOCKS_STORAGE", "sqlite:///environment.db")
    context = context_of("run", "--trials", "9", "--settings", "s.toml")
    assert context.params["trials"] == 9
    assert context.params["seed"] == 5
    assert context.params["storage"] == "sqlite:///environment.db"


def test_a_table_is_for_the_command_that_it_names() -> None:
    written('storage = "sqlite:///x.db"\n[run]\ntrials = 7\n[export]\nprefer = "memory"\n')
    assert context_of("run", "--settings", "s.toml").params["trials"] == 7
    found = context_of("export", "--settings", "s.toml").params
    assert (found["prefer"], found["storage"]) == ("memory", "sqlite:///x.db")


def test_plugins_are_loaded_from_a_file() -> None:
    written('plugin = "absent.py"\n')
    with pytest.raises(Exception, match=r"--plugin: .*absent\.py"):
        context_of("run", "--settings", "s.toml")


def test_what_was_taken_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written('trials = 7\nbatch = [1, 8]\nscore_mod = "none"\ndry-run = true\n')
    with fake_devices() as patch:
        assert typed("run --settings s.toml --trials 9", patch) == 0
    captured = capsys.readouterr()
    said = "from s.toml: --batch 1,8, --score-mod none, --dry-run True; given otherwise: --trials"
    assert captured.err.splitlines()[0] == said
    assert "for 9 trials" in captured.out


WRONG = {
    "trial = 7": "s.toml: trial must be an option of run: trials, .*; got trial",
    "help = true": "s.toml: help must be an option of run: ",
    'settings = "x.toml"': "s.toml: settings must be an option of run: ",
    'trials = "7"': "s.toml: trials must be a whole number, got '7'",
    "trials = 7.5": "s.toml: trials must be a whole number, got 7.5",
    "trials = true": "s.toml: trials must be a whole number, got True",
    "trials = 0": "s.toml: Invalid value .*--trials.*greater than or equal to 1",
    'max-error = "small"': "s.toml: max-error must be a number, got 'small'",
    "finalists = 1": "s.toml: finalists must be true or false, got 1",
    "batch = [1.5]": r"s.toml: batch must be a text or a list of texts, got \[1.5\]",
    "batch = []": r"s.toml: batch must be a text or a list of texts, got \[\]",
    'batch = "x"': "--batch: batch must be a positive integer, got 'x'",
    "batch = [1, true]": "s.toml: batch must be a text or a list of texts",
    'device = "gpu"': "s.toml: Invalid value .*--device",
    "study = 1.5": "s.toml: study must be a text, got 1.5",
    "[runs]\ntrials = 7": r"s.toml: a table must be named as a command, got \[runs\]",
    "trials =": "--settings must be a TOML file, got s.toml",
    'storage = "postgresql://u:secret@h/d"': "--storage must hold no password",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_in_a_file_is_one_line_and_status_2(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(text)
    with fake_devices() as patch:
        assert typed("run --settings s.toml --dry-run", patch) == 2
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert lines[-1:] == errors  # behind what was taken, where it got so far
    assert re.search(WRONG[text], errors[0]), errors
    assert "secret" not in "".join(lines)


def test_a_file_that_is_not_there_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed("run --settings absent.toml", monkeypatch) == 2
    expected = "error: --settings must be a file that can be read, got absent.toml: No such file"
    assert capsys.readouterr().err.startswith(expected)
