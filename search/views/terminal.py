"""The console that commands print on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel
from rich.console import Console

WIDTH = 120  # of a file or a pipe, which has none of its own
WARNING_STYLES = ("yellow", "red")


class Terminal(Console):
    """A console that, while it is quiet, prints warnings alone."""

    def turn_to(self, *, stderr: bool) -> None:
        """Print on standard error, or on standard output; colours are for terminals alone."""
        self.stderr = stderr
        self._color_system = self._detect_color_system()

    def print(self, *objects: Any, style: Any = None, **options: Any) -> None:
        """Print; while it is quiet, only what has the style of a warning."""
        quiet = self.quiet
        self.quiet = quiet and style not in WARNING_STYLES
        try:
            super().print(*objects, style=style, **options)
        finally:
            self.quiet = quiet


def make_console(*, stderr: bool = False) -> Terminal:
    """Return a console as wide as the terminal; what is piped into a file is not cut at 80.

    It prints what it is given: names and reasons come from files, databases and libraries, and
    what looks like markup or an emoji's name in them is neither.
    """
    stream = sys.stderr if stderr else sys.stdout
    piped = not stream.isatty() and "COLUMNS" not in os.environ
    width = WIDTH if piped else None
    return Terminal(width=width, stderr=stderr, markup=False, emoji=False)


@contextmanager
def spoken(console: Terminal, *, as_json: bool = False, quiet: bool = False) -> Iterator[None]:
    """Print as a user asked for: on standard error where standard output is for JSON, or little.

    Args:
        console: That of the command's module, which all of its functions print on.
        as_json: Leave standard output to the document.
        quiet: Print warnings alone.
    """
    before = console.stderr, console.quiet
    console.turn_to(stderr=console.stderr or as_json)
    console.quiet = console.quiet or quiet
    try:
        yield
    finally:
        console.turn_to(stderr=before[0])
        console.quiet = before[1]


@contextmanager
def aloud(console: Terminal, *, aloud: bool = True) -> Iterator[None]:
    """Print what was asked for, also while the console is quiet; as before if not `aloud`."""
    before = console.quiet
    console.quiet = before and not aloud
    try:
        yield
    finally:
        console.quiet = before


def print_json(document: BaseModel) -> None:
    """Print a document on standard output, and nothing beside it."""
    sys.stdout.write(document.model_dump_json(indent=2) + "\n")
    sys.stdout.flush()
