"""What a study is stored with: the version is that of the code that runs."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from objectives.schema import environment
from objectives.schema.environment import own_version

ROOT = Path(__file__).parents[3]


def _not_installed(name: str) -> str:
    raise PackageNotFoundError(name)


def test_a_checkout_has_the_version_of_its_own_file(monkeypatch: pytest.MonkeyPatch) -> None:
    there = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for installed in (_not_installed, lambda name: "0.0.0"):  # another one, or none
        monkeypatch.setattr(environment, "version", installed)
        assert own_version() == there


@pytest.mark.parametrize("text", [None, "[project]\nname = 'other'\nversion = '9'", "no TOML"])
def test_elsewhere_it_is_what_is_installed(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "objectives" / "schema" / "environment.py"
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    monkeypatch.setattr(environment, "__file__", str(module))
    monkeypatch.setattr(environment, "version", lambda name: "1.2.3")
    assert own_version() == "1.2.3"
    monkeypatch.setattr(environment, "version", _not_installed)
    assert own_version() == "unknown"
