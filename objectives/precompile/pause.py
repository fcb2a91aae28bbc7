"""Stops the compiling processes (SIGSTOP) while the measuring process times something.

The measuring process does it itself: their parent hears of a stage too late. They go on while the
measuring process compiles: it is not timed then, and its compiler may wait for a lock of the
shared cache that one of them holds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import TracebackType

import psutil

SETTLE_S = 1.0  # at most, until they stand still: a system call may have to end first
_PAUSE_S = 0.0005


class PausedProcesses:
    """A context in which other processes stand still; without any, it does nothing."""

    def __init__(self, groups: Sequence[Sequence[int]] = ()) -> None:
        """Take the session and the process group of each process."""
        self._groups = [(session, group) for session, group in groups]

    def __enter__(self) -> None:
        """Stop them, and hear of what is compiled from here on."""
        if not self._groups:
            return
        if "torch._dynamo" in sys.modules:  # without it nothing is compiled
            from torch._dynamo.callback import callback_handler

            callback_handler.register_start_callback(self._go_on)
            callback_handler.register_end_callback(self._stop)
        self._stop()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let them go on."""
        if not self._groups:
            return
        if "torch._dynamo" in sys.modules:
            from torch._dynamo.callback import callback_handler

            with contextlib.suppress(ValueError):  # where a reset forgot them
                callback_handler.remove_start_callback(self._go_on)
            with contextlib.suppress(ValueError):
                callback_handler.remove_end_callback(self._stop)
        self._go_on()

    def _stop(self, compilation: object = None) -> None:
        signal_groups(self._groups, signal.SIGSTOP)
        end = time.monotonic() + SETTLE_S
        for session, group in self._groups:
            while _runs(session, group) and time.monotonic() < end:
                time.sleep(_PAUSE_S)

    def _go_on(self, compilation: object = None) -> None:
        signal_groups(self._groups, signal.SIGCONT)


def signal_groups(groups: Sequence[tuple[int, int]], number: signal.Signals) -> None:
    """Send a signal to the groups of those that live."""
    for session, group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(group) == session:  # else its number is somebody else's by now
                os.killpg(group, number)


def _runs(session: int, group: int) -> bool:
    still = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE)
    with contextlib.suppress(ProcessLookupError, psutil.Error):
        return os.getsid(group) == session and psutil.Process(group).status() not in still
    return False
