"""The options that several commands share; those of the axes are in `command_options`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from search.options.choices import UsageError
from studies.space.presets import preset_names, preset_summary
from studies.storage.url import has_password
from variants.models import MODELS

DEFAULT_STORAGE = "sqlite:///goldilocks.db"
STORAGE_VARIABLE = "GOLDILOCKS_STORAGE"


def without_password(context: typer.Context, parameter: typer.CallbackParam, storage: str) -> str:
    """Return the storage's URL; a password may stand in it where the environment gave it.

    Raises:
        UsageError: It stands on the command line, for all users of the host and the history.
    """
    source = context.get_parameter_source(parameter.name or "")
    if has_password(storage) and source is not None and source.name == "COMMANDLINE":
        raise UsageError(
            "--storage must hold no password: give it in PGPASSWORD, in ~/.pgpass or in a service "
            f"file (?service=NAME), or give the whole URL in {STORAGE_VARIABLE}"
        )
    return storage


def storage_words(storage: str) -> str:
    """Return the `--storage` option that a printed command needs; nothing where it needs none."""
    known = os.environ.get(STORAGE_VARIABLE) or DEFAULT_STORAGE
    return (
        "" if storage == known or has_password(storage) else f" --storage {shlex.quote(storage)}"
    )


SpaceFile = Annotated[
    Path | None,
    typer.Option("--space", metavar="FILE", help="TOML file with a table [axes]; options win."),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="A space that comes with the product; what else is given wins. "
        + " ".join(f"{name}: {preset_summary(name)}." for name in preset_names()),
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|PATH",
        help=f"Heads, sizes, layers and score_mod of a model: {', '.join(MODELS)}, or the path of "
        "a config.json in Hugging Face's format.",
    ),
]
DeviceOption = Annotated[
    Literal["auto", "cuda", "cpu"], typer.Option("--device", help="Where to measure.")
]
Storage = Annotated[
    str,
    typer.Option(
        "--storage",
        metavar="URL",
        help="sqlite:///FILE, or postgresql://USER@HOST/DATABASE for several hosts; no password.",
        envvar=STORAGE_VARIABLE,
        callback=without_password,
    ),
]
StudyName = Annotated[
    str | None, typer.Option("--study", metavar="NAME", help="The newest one if not given.")
]
