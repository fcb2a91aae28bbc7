"""Reads the axes that a user chose, from options and from a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from variants.axes import AXES, Choice


class UsageError(ValueError):
    """Wrong use; the message is one line: the option, the value and what was expected."""


def choices_from_options(options: Mapping[str, str | None]) -> dict[str, tuple[Choice, ...]]:
    """Read `1,4,16` for each axis that was given.

    Raises:
        UsageError: A choice is not one that its axis knows.
    """
    choices = {}
    for name, text in options.items():
        if text is None:
            continue
        try:
            choices[name] = AXES[name].parse(text)
        except ValueError as error:
            raise UsageError(f"{option_of(name)}: {error}") from None
    return choices


def choices_from_toml(path: Path) -> dict[str, tuple[Choice, ...]]:
    """Read the table `[axes]`: a choice or a list of choices for each axis named.

    Raises:
        UsageError: The file cannot be read, is not TOML, or names what is no axis or choice.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--space must be a file that can be read, got {path}: {error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"--space must be a TOML file, got {path}: {error}") from None
    unknown = [name for name in document if name != "axes"]
    if unknown:
        raise UsageError(f"--space {path}: tables must be [axes] alone, got {', '.join(unknown)}")
    axes = document.get("axes", {})
    if not isinstance(axes, dict):
        raise UsageError(f"--space {path}: [axes] must be a table, got {axes!r}")
    choices = {}
    for name, value in axes.items():
        values = value if isinstance(value, list) else [value]
        if not values:
            raise UsageError(f"--space {path}: {name} must have a choice, got none")
        try:
            choices[name] = tuple(AXES[name].check(choice) for choice in values)
        except ValueError as error:
            raise UsageError(f"--space {path}: {error}") from None
    return choices


def option_of(axis: str) -> str:
    """Return the option that sets an axis."""
    return "--" + axis.replace("_", "-")
