"""The `--plugin` option: files of the user's that are loaded before anything else is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.options.choices import UsageError
from variants.plugins import PluginError, load_plugin, read_plugin


def load_plugins(paths: list[Path] | None) -> list[Path] | None:
    """Load plugins in order.

    Raises:
        UsageError: One of them cannot be loaded.
    """
    try:
        for path in paths or ():
            load_plugin(read_plugin(path))
    except PluginError as error:
        raise UsageError(f"--plugin: {error}") from None
    return paths


# Eager: options that are read after it may name what it registers.
PluginOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        is_eager=True,
        callback=load_plugins,
        help="A file of yours that registers a backend, score_mod or cache; may be repeated.",
    ),
]
