"""Files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that it is either the old one or the whole new one.

    Raises:
        OSError: It cannot be written.
    """
    beginning = path.name[:40]  # what is added must not make a long name too long
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{beginning}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
