"""The installed command: its name, its version, its completion, and any folder it is typed in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from objectives.schema.environment import own_version
from search import cli
from tests.search.fake_cli import fake_devices
from tests.search.test_cli import ROOT, TINY

# What an installer writes for `[project.scripts]`.
SCRIPT = """\
import sys
from search.__main__ import run
if __name__ == "__main__":
    sys.exit(run())
"""
BROKEN = 'raise ImportError("this is the user\'s own package")\n'


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bin") / "goldilocks"
    path.write_text(SCRIPT)
    return path


def goldilocks(
    script: Path, *words: str, cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, str(script), *words],
        cwd=cwd,
        env=environment | {"PYTHONPATH": str(ROOT), "COLUMNS": "160"} | variables,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_folder_with_packages_of_the_same_names_breaks_nothing(
    script: Path, tmp_path: Path
) -> None:
    for name in ("search", "studies", "objectives", "variants"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(BROKEN)
    done = goldilocks(script, "run", "--trials", "3", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "budget spent: 3 trials" in done.stdout
    # What it prints to be typed next is the command that was typed, which works here.
    assert "  goldilocks report --study attention-1 --output report.html" in done.stdout
    assert "python -m search" not in done.stdout
    shown = goldilocks(script, "export", "--output", "best.json", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "goldilocks verify best.json" in shown.stdout


def test_what_is_printed_to_be_typed_is_what_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "--batch 1 --seq-len 512 --score-mod none --trials 6"
    lines = [
        f"run {words}",
        "sensitivity",
        "report",
        "export --output best.json",
        "show --study absent",
    ]
    with fake_devices() as patch:
        for name, other in (("goldilocks", "python -m search"), ("__main__.py", "goldilocks ")):
            for line in lines:
                patch.setattr(sys, "argv", [f"/usr/bin/{name}", *line.split()])
                cli.main()
                captured = capsys.readouterr()
                assert other not in captured.out.replace("goldilocks attention", "")
                assert other not in captured.err
            page = Path("report.html").read_text(encoding="utf-8")
            assert ("goldilocks export --study" in page) == (name == "goldilocks")


def test_version_names_what_results_depend_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["search", "--version"])
    assert cli.main() == 0
    line = capsys.readouterr().out
    assert re.fullmatch(
        rf"goldilocks {re.escape(own_version())} \(torch \S+, optuna \S+, Python \S+\)\n", line
    )
    assert own_version() != "unknown"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("goldilocks ver", ["verify"]),
        ("goldilocks run --trials 3 --pat", ["--patience"]),
        ("goldilocks run --precision bf16,f", ["bf16,fp32", "bf16,fp16"]),
    ],
)
def test_a_shell_completes_commands_options_and_choices(
    typed: str, expected: list[str], script: Path, tmp_path: Path
) -> None:
    done = goldilocks(
        script,
        cwd=tmp_path,
        _GOLDILOCKS_COMPLETE="complete_bash",
        COMP_WORDS=typed,
        COMP_CWORD=str(len(typed.split()) - 1),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == expected


@pytest.mark.parametrize(
    ("command", "option", "begun", "expected"),
    [
        ("run", "--backend", "f", ["flash", "flex", "fa3"]),
        ("run", "--cache", "static,r", ["static,ring"]),
        ("run", "--cache", "ring,r", []),  # it is there already
        ("run", "--batch", "1", []),
        ("run", "--model", "qwen", ["qwen2.5-7b", "qwen3-8b"]),
        ("run", "--preset", "kv", ["kv-cache"]),
        ("run", "--sampler", "ns", ["nsga2"]),
        ("support", "--gqa", "r", ["repeat_kv"]),
        ("export", "--prefer", "b", ["balanced"]),
    ],
)
def test_choices_are_offered_as_they_are_typed(
    command: str, option: str, begun: str, expected: list[str]
) -> None:
    root: Any = typer.main.get_command(cli.app)
    its = root.commands[command]
    context = typer.Context(its, info_name=command)
    (parameter,) = (each for each in its.params if option in each.opts)
    assert [item.value for item in parameter.shell_complete(context, begun)] == expected


@pytest.mark.parametrize("how", ["script", "module"])
def test_completion_is_installed_for_the_installed_command(
    how: str, script: Path, tmp_path: Path
) -> None:
    words = [str(script)] if how == "script" else ["-m", "search"]
    done = subprocess.run(
        [sys.executable, *words, "--install-completion", "bash"],
        cwd=tmp_path,
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "HOME": str(tmp_path),
            "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = (tmp_path / ".bash_completions" / "goldilocks.sh").read_text()
    assert "complete -o default -F _goldilocks_completion goldilocks" in written
    assert str(tmp_path / ".bash_completions") in (tmp_path / ".bashrc").read_text()
