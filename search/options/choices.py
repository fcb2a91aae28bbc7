"""Reads the axes that a user chose, from options and from a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from search.options.command_options import option_of
from studies.space.presets import preset_path
from variants.axes import AXES, Choice
from variants.models import read_model
from variants.user_error import UserError

_Given = TypeVar("_Given")
_Found = TypeVar("_Found")


class UsageError(UserError):
    """Wrong use; the message names the option, the value and what was expected."""


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


def choices_from_toml(path: Path, option: str = "--space") -> dict[str, tuple[Choice, ...]]:
    """Read the table `[axes]`: a choice or a list of choices for each axis named.

    Raises:
        UsageError: The file cannot be read, is not TOML, or names what is no axis or choice.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{option} must be a file that can be read, got {path}: {error}"
        ) from None
    except (ValueError, RecursionError) as error:  # numbers of too many digits, too
        raise UsageError(f"{option} must be a TOML file, got {path}: {error}") from None
    unknown = [name for name in document if name not in ("axes", "summary")]
    if unknown:
        raise UsageError(f"{option} {path}: tables must be [axes] alone, got {', '.join(unknown)}")
    axes = document.get("axes", {})
    if not isinstance(axes, dict):
        raise UsageError(f"{option} {path}: [axes] must be a table, got {axes!r}")
    choices = {}
    for name, value in axes.items():
        values = value if isinstance(value, list) else [value]
        if not values:
            raise UsageError(f"{option} {path}: {name} must have a choice, got none")
        try:
            choices[name] = tuple(AXES[name].check(choice) for choice in values)
        except ValueError as error:
            raise UsageError(f"{option} {path}: {error}") from None
    return choices


def gather_choices(
    options: Mapping[str, str | None],
    *,
    preset: str | None = None,
    model: str | None = None,
    space: Path | None = None,
) -> dict[str, tuple[Choice, ...]]:
    """Return what the user chose: options win over a file, a file over a model and a preset.

    Raises:
        UsageError: One of them names what does not exist or cannot be expressed.
    """
    own = {} if space is None else choices_from_toml(space)
    own |= choices_from_options(options)
    choices: dict[str, tuple[Choice, ...]] = {}
    if preset is not None:
        choices |= choices_from_toml(_named("--preset", preset_path, preset), "--preset")
    if model is not None:
        shape = _named("--model", read_model, model)
        choices |= _named("--model", shape.axes, own.get("score_mod", ()))
    return choices | own


def _named(option: str, find: Callable[[_Given], _Found], given: _Given) -> _Found:
    try:
        return find(given)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None
