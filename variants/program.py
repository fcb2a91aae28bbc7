"""How this program is called, for commands that it prints and that its user copies."""

from __future__ import annotations

import sys
from pathlib import PurePath

INSTALLED = "goldilocks"
MODULE = "python -m search"


def program() -> str:
    """Return `goldilocks` where that was typed, else `python -m search`.

    The installed command runs in any folder; the module runs where it is not installed, and only
    where the working directory has no `search` of its own.
    """
    return INSTALLED if PurePath(sys.argv[0]).stem == INSTALLED else MODULE
