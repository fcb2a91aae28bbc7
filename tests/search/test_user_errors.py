"""What a user sees of each kind of error: one line, and an exit status."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import pytest

from objectives.process.client import ProcessError
from search import cli
from variants.user_error import UserError

ROOT = Path(__file__).parents[2]


def kinds() -> list[type[UserError]]:
    """Every class of the four packages that derives from `UserError`, and that one."""
    found = [UserError]
    for package in ("variants", "objectives", "studies", "search"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and "UserError" in map(ast.unparse, node.bases):
                    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                    found.append(getattr(importlib.import_module(module), node.name))
    return found


def ended(error: Exception, monkeypatch: pytest.MonkeyPatch) -> int:
    def fail(arguments: object, **how: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(sys, "argv", ["search", "show"])
    return cli.main()


def test_each_error_of_a_user_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = kinds()
    names = {kind.__name__ for kind in found}
    assert {"UsageError", "SpaceError", "StudyError", "TableError", "DeviceMissingError"} <= names
    assert {"ModelError", "PluginError", "LoadError", "DatabaseUrlError"} <= names
    capsys.readouterr()  # what imports said
    for kind in found:
        assert issubclass(kind, ValueError)
        assert ended(kind("x must be 1,\ngot 2"), monkeypatch) == 2
        assert capsys.readouterr() == ("", "error: x must be 1, got 2\n")


def test_a_process_that_cannot_measure_is_one_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(ProcessError("it died"), monkeypatch) == 1
    assert capsys.readouterr().err == "error: the measuring process cannot be used: it died\n"


def test_a_bug_of_ours_is_no_error_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="a bug"):
        ended(ValueError("a bug"), monkeypatch)
