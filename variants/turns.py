"""Settings that PyTorch keeps once for a process, among threads that want different ones."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Generic, TypeVar

Setting = TypeVar("Setting")


class Turns(Generic[Setting]):
    """Lets threads that want the same setting in together, and others when those are out.

    Threads that each set and restore it would compute under each other's setting, and the last to
    restore would leave another's behind. A block must not ask for a second setting inside.
    """

    def __init__(self, applied: Callable[[Setting], AbstractContextManager[Any]]) -> None:
        """Take what applies a setting inside of a block."""
        self._applied = applied
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside = self._waiting = 0
        self._current: Setting
        self._block: AbstractContextManager[Any]

    def of(self, setting: Setting) -> _Turn[Setting]:
        """Return a block in which the process has this setting; it may be entered again."""
        return _Turn(self, setting)

    def enter(self, setting: Setting) -> None:
        """Wait until no other setting is in use, and apply this one."""
        # The lock itself: a condition's own `with` is a call of Python more.
        with self._lock:
            while self._inside and self._current != setting:
                self._waiting += 1
                try:
                    self._changed.wait()
                finally:
                    self._waiting -= 1
            if not self._inside:
                block = self._applied(setting)
                block.__enter__()
                self._current, self._block = setting, block
            self._inside += 1

    def leave(self) -> None:
        """Restore what was before, where nobody else is inside."""
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._block.__exit__(None, None, None)
                if self._waiting:
                    self._changed.notify_all()


class _Turn(Generic[Setting]):
    """A block of `Turns`; of a class, since a generator costs a call a microsecond."""

    __slots__ = ("_setting", "_turns")

    def __init__(self, turns: Turns[Setting], setting: Setting) -> None:
        self._turns, self._setting = turns, setting

    def __enter__(self) -> None:
        self._turns.enter(self._setting)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._turns.leave()
