"""Imports point down, and each third-party package stays behind its wall."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

FLOORS = ("variants", "objectives", "studies", "search")
ROOT = Path(__file__).parents[1]
# Who may import what; packages that are not named may be imported by all.
WALLS = {
    "torch": {"variants", "objectives"},
    "optuna": {"studies"},
    "optuna_dashboard": {"studies"},
    "sqlalchemy": {"studies"},
    "alembic": {"studies"},
    "sklearn": {"studies"},
    "pandas": {"studies"},
    "plotly": {"studies"},
    "typer": {"search"},
    "rich": {"search"},
    "pynvml": {"objectives"},
    "torchao": {"variants"},
    "transformers": {"variants"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add((node.module or "").partition(".")[0])
    return found


def sources() -> list[Path]:
    return sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))


def test_there_are_sources() -> None:
    assert len(sources()) > 40


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    floor = path.relative_to(ROOT).parts[0]
    above = set(FLOORS[FLOORS.index(floor) + 1 :])
    walled = {name for name, allowed in WALLS.items() if floor not in allowed}
    assert not imports(path) & (above | walled)


@pytest.mark.parametrize("package", FLOORS)
def test_package_says_what_it_is(package: str) -> None:
    assert ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text()))


def test_command_line_starts_without_what_takes_seconds_to_import() -> None:
    code = "import sys, search.cli; print(sorted({*sys.argv[1:]} & sys.modules.keys()))"
    slow = ("torch", "sklearn", "scipy", "optuna_dashboard")
    done = subprocess.run(
        [sys.executable, "-c", code, *slow], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"
