"""How tables look, in wide terminals and in narrow ones."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

NONE = "–"
NARROW = 115  # columns of a terminal, below which there is no room for what is only pleasant
_NAME, _WORD = 18, 7  # as "sliding_window:256" and "unclear"


def make_table(title: str) -> Table:
    """Return an empty table."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def number_table(
    console: Console,
    title: str,
    name: str,
    numbers: Sequence[str],
    *,
    words: Sequence[str] = (),
    width: int = _NAME,
) -> Table:
    """Return an empty table: a name and a variant with numbers beside them.

    Where the terminal is narrow, no number is cut: headings are folded, names to `width`, variants
    to what is left, and so are `words`, those of the `numbers` whose cells may hold a word, too.
    """
    narrow = console.width < NARROW
    table = make_table(title)
    if narrow:
        table.padding, table.show_edge = (0, 0, 0, 0), False
    table.add_column(name, overflow="fold", width=width if narrow else None)
    table.add_column("variant", overflow="fold")
    for heading in numbers:
        folded = narrow and heading in words
        table.add_column(
            heading.replace(" ", "\n") if narrow else heading,
            justify="right",
            no_wrap=not folded,
            width=_WORD if folded else None,
        )
    return table


def print_note(console: Console, text: str) -> None:
    """Print what a table's words mean."""
    console.print(text, style="dim", highlight=False)
