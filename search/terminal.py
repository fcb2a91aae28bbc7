"""The console that commands print on."""

from __future__ import annotations

import os
import sys

from rich.console import Console

WIDTH = 120  # of a file or a pipe, which has none of its own


def make_console(*, stderr: bool = False) -> Console:
    """Return a console as wide as the terminal; what is piped into a file is not cut at 80."""
    stream = sys.stderr if stderr else sys.stdout
    piped = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(width=WIDTH if piped else None, stderr=stderr)
