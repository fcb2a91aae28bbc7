"""Spaces that come with the product: TOML files, which users copy for their own."""

from __future__ import annotations

import tomllib
from pathlib import Path

_FOLDER = Path(__file__).with_name("presets")


def preset_names() -> tuple[str, ...]:
    """Return the names of all presets."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def preset_path(name: str) -> Path:
    """Return the file of a preset.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in preset_names():
        raise ValueError(f"preset must be one of {', '.join(preset_names())}; got {name}")
    return _FOLDER / f"{name}.toml"


def preset_summary(name: str) -> str:
    """Return the question that a preset asks, in a line."""
    document = tomllib.loads(preset_path(name).read_text(encoding="utf-8"))
    return str(document["summary"])
