"""The options that say how much a command prints, and for whom."""

from __future__ import annotations

from typing import Annotated

import typer

from search.options.help_panels import OUTPUT

JsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON document (docs/json.md); all else goes to standard error.",
        rich_help_panel=OUTPUT,
    ),
]
QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet",
        help="Print what was asked for, warnings and errors alone.",
        rich_help_panel=OUTPUT,
    ),
]
