"""Silence while something is timed: the helpers that compile ahead are stopped by who times.

Their parent could only do it from afar, by when it hears of a stage. They go on while this process
compiles: it is not timed then, and a compiler may wait for a lock of the shared cache that one of
them holds.
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


class Quiet:
    """Stops processes inside of its block; without any, it does nothing."""

    def __init__(self, helpers: Sequence[Sequence[int]] = ()) -> None:
        """Take the session and the process group of each helper."""
        self._helpers = [(session, group) for session, group in helpers]

    def __enter__(self) -> None:
        """Stop them, and hear of what is compiled from here on."""
        if not self._helpers:
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
        if not self._helpers:
            return
        if "torch._dynamo" in sys.modules:
            from torch._dynamo.callback import callback_handler

            with contextlib.suppress(ValueError):  # where a reset forgot them
                callback_handler.remove_start_callback(self._go_on)
            with contextlib.suppress(ValueError):
                callback_handler.remove_end_callback(self._stop)
        self._go_on()

    def _stop(self, compilation: object = None) -> None:
        signal_groups(self._helpers, signal.SIGSTOP)
        end = time.monotonic() + SETTLE_S
        for session, group in self._helpers:
            while _runs(session, group) and time.monotonic() < end:
                time.sleep(_PAUSE_S)

    def _go_on(self, compilation: object = None) -> None:
        signal_groups(self._helpers, signal.SIGCONT)


def signal_groups(helpers: Sequence[tuple[int, int]], number: signal.Signals) -> None:
    """Send a signal to the groups of those that live."""
    for session, group in helpers:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(group) == session:  # else its number is somebody else's by now
                os.killpg(group, number)


def _runs(session: int, group: int) -> bool:
    still = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE)
    with contextlib.suppress(ProcessLookupError, psutil.Error):
        return os.getsid(group) == session and psutil.Process(group).status() not in still
    return False
