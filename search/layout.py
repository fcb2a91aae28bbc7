"""How the tables of `search sensitivity` look."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from studies.sensitivity.analysis import FAILURE, LATENCY, MEMORY

LABELS = {MEMORY: "memory", LATENCY: "latency", FAILURE: "failure"}
NONE = "–"


def make_table(title: str) -> Table:
    """Return an empty table."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def print_note(console: Console, text: str) -> None:
    """Print what a table's words mean."""
    console.print(text, style="dim", highlight=False)
