"""The console that commands print on."""

from __future__ import annotations

import os
import sys

from rich.console import Console

WIDTH = 120  # of a file or a pipe, which has none of its own


def make_console(*, stderr: bool = False) -> Console:
    """Return a console as wide as the terminal; what is piped into a file is not cut at 80.

    It prints what it is given: names and reasons come from files, databases and libraries, and
    what looks like markup or an emoji's name in them is neither.
    """
    stream = sys.stderr if stderr else sys.stdout
    piped = not stream.isatty() and "COLUMNS" not in os.environ
    width = WIDTH if piped else None
    return Console(width=width, stderr=stderr, markup=False, emoji=False)
