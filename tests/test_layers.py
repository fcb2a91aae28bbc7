"""Imports point down, between packages and inside them, and third-party ones stay behind walls.

A name stands for one thing: no two modules and no two public types are called the same.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

FLOORS = ("variants", "objectives", "studies", "search")
# The floors of each package, the lowest first. A unit, a folder or a module beside the folders,
# imports of its own package nothing but itself and units that stand lower. `__init__` is the
# package itself, which may hand out names of the units on its own floor and below.
LEVELS: dict[str, tuple[set[str], ...]] = {
    "variants": (
        {"registry", "turns", "user_error"},
        {"device", "kv_dtypes", "score_mods"},
        {"caches", "executions", "precisions", "quantizations", "workload"},
        {"axis", "detect"},
        {"backends"},
        {"gqa"},
        {"axes", "plugins"},
        {"variant"},
        {"configuration"},
        {"layer", "models", "sdpa_answers", "support"},
        {"deploy"},
        {"__init__", "hf"},
    ),
    "objectives": (
        {"__init__", "process", "schema"},
        {"metrics", "roofline"},
        {"in_model", "precompile", "timing"},
        {"trial"},
    ),
    "studies": (
        {"__init__", "numerics", "storage"},
        {"space"},
        {"study"},
        {"results", "samplers"},
        {"export", "replay", "sensitivity", "session"},
        {"report"},
        {"dashboard"},
    ),
    "search": (
        {"__init__", "runner"},
        {"options"},
        {"views"},
        {"verify_in_model"},
        {
            "export_command",
            "profile_command",
            "replay_command",
            "report_command",
            "run_command",
            "sensitivity_command",
            "show_commands",
            "verify_command",
        },
        {"cli"},
        {"__main__", "command_reference"},
    ),
}
MOST_MODULES = 15  # of a folder, besides the entries of registries: more is no subject any more
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


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {name_of(path): path for path in sources()}


def own_imports(path: Path) -> Iterator[str]:
    """The modules of ours that a file imports anywhere, also in functions and for types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom) and node.module in modules():
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules() else node.module


def unit_of(path: Path) -> str:
    inside = path.relative_to(ROOT).with_suffix("").parts[1:]
    return inside[0]


@pytest.mark.parametrize("package", FLOORS)
def test_imports_inside_a_package_point_down(package: str) -> None:
    level_of = {unit: level for level, units in enumerate(LEVELS[package]) for unit in units}
    found = {unit_of(path) for path in sources() if path.relative_to(ROOT).parts[0] == package}
    assert found == set(level_of), "each folder and each module beside them has its level"
    for path in sources():
        if path.relative_to(ROOT).parts[0] != package:
            continue
        unit = unit_of(path)
        for name in own_imports(path):
            below = unit_of(modules()[name])
            if name.partition(".")[0] == package and below != unit:
                assert level_of[below] < level_of[unit], f"{path} imports {name}"


def test_no_files_import_each_other_in_a_circle() -> None:
    imported = {name: set(own_imports(path)) for name, path in modules().items()}
    while leaves := {name for name, below in imported.items() if not below & imported.keys()}:
        imported = {name: below for name, below in imported.items() if name not in leaves}
    assert not imported, f"a circle is among {sorted(imported)}"


def is_registry(path: Path) -> bool:
    """Tell whether a module defines a registry of entries."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        value = getattr(node, "value", None)
        if isinstance(value, ast.Call) and ast.unparse(value.func).startswith("Registry"):
            return True
    return False


def test_no_folder_holds_too_many_modules() -> None:
    entries = ROOT / "variants" / "backends"
    counts = Counter(
        path.parent
        for path in sources()
        if path.stem != "__init__" and path.parent != entries and not is_registry(path)
    )
    assert not {str(f): n for f, n in counts.items() if n > MOST_MODULES}


def test_no_two_modules_have_the_same_name() -> None:
    stems = Counter(path.stem for path in sources() if not path.stem.startswith("__"))
    assert not [stem for stem, count in stems.items() if count > 1]


def public_types(path: Path) -> Iterator[str]:
    """The public classes of a file, and its aliases of types.

    What the command line declares an option to be is no type of its own.
    """
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript | ast.BinOp):
            names = [each.id for each in node.targets if isinstance(each, ast.Name)]
            is_option = ast.unparse(node.value).startswith("Annotated[")
            yield from (n for n in names if n[0].isupper() and not n.isupper() and not is_option)


def test_no_two_public_types_have_the_same_name() -> None:
    where: dict[str, list[str]] = defaultdict(list)
    for path in sources():
        for name in public_types(path):
            where[name].append(str(path.relative_to(ROOT)))
    shared = {name: paths for name, paths in where.items() if len(paths) > 1}
    assert not shared


def test_labels_and_verdicts_are_there_without_optuna() -> None:
    code = (
        "import sys, studies.results.labels, studies.study.verdicts, studies.numerics.arrays;"
        "print(sorted({*sys.argv[1:]} & sys.modules.keys()))"
    )
    slow = ("optuna", "pandas", "plotly", "scipy", "sklearn", "torch")
    done = subprocess.run(
        [sys.executable, "-c", code, *slow], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"


def test_what_users_import_is_there_under_short_names() -> None:
    from studies.results import as_table, read_results, results
    from studies.study import load_study, open_storage, study

    assert (as_table, read_results) == (results.as_table, results.read_results)
    assert (load_study, open_storage) == (study.load_study, study.open_storage)


def test_each_folder_says_what_it_is() -> None:
    for folder in {path.parent for path in sources()}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


def test_command_line_starts_without_what_takes_seconds_to_import() -> None:
    code = "import sys, search.cli; print(sorted({*sys.argv[1:]} & sys.modules.keys()))"
    slow = ("torch", "sklearn", "scipy", "optuna_dashboard")
    done = subprocess.run(
        [sys.executable, "-c", code, *slow], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"
