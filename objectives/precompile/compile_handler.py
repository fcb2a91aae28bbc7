"""The job handler of a compiling process: it compiles what others will measure.

Light to import: its greeting says where its process group is, so that whoever times something
can stop it. What takes seconds to import is left to its first job.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from objectives.process.messages import Message

if TYPE_CHECKING:
    from objectives.precompile.compiler import Precompiler

NICENESS = 10  # what measures goes first


class CompileHandler:
    """Compiles configurations into the caches that all processes of this machine share."""

    def __init__(self, options: Message) -> None:
        self._options = options
        self._precompiler: Precompiler | None = None

    def work(self, job: Message) -> Message:
        """Compile the configuration `compile`: `seconds`, or why it was `skipped`."""
        from objectives.precompile.compiler import Precompiler
        from variants.configuration import Configuration

        if self._precompiler is None:
            self._precompiler = Precompiler(self._options)
        return self._precompiler.compile(Configuration.model_validate(job["compile"]))

    def usable(self) -> bool:
        """Tell whether the device still works."""
        return self._precompiler is not None and self._precompiler.usable()


def start_handler(
    options: Message, on_stage: Callable[[str], None]
) -> tuple[Message, CompileHandler]:
    """Leave the guard's process group: what is stopped must not be the guard.

    Of a group that loses its guard while it is stopped, the kernel lets nothing stay.
    """
    os.setpgid(0, 0)
    os.nice(NICENESS)
    return {"group": os.getpgid(0)}, CompileHandler(options)
