"""The helper process's own part: it compiles what others will measure, and measures nothing.

Light to import: that it is up says where its process group is, so that whoever times something
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


class HelperStation:
    """Compiles configurations into the caches that all processes of this machine share."""

    def __init__(self, options: Message) -> None:
        """Nothing is imported yet."""
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


def attach(options: Message, on_stage: Callable[[str], None]) -> tuple[Message, HelperStation]:
    """Leave the guard's process group: what is stopped must not be the guard.

    Of a group that loses its guard while it is stopped, the kernel lets nothing stay.
    """
    os.setpgid(0, 0)
    os.nice(NICENESS)
    return {"group": os.getpgid(0)}, HelperStation(options)
