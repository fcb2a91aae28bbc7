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
        self.applied = applied
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.inside = self.waiting = 0
        self.current: Setting
        self.block: AbstractContextManager[Any]

    def of(self, setting: Setting) -> _Turn:
        """Return a block in which the process has this setting; it may be entered again."""
        return _Turn(self, setting)

    def wait_for(self, setting: Setting) -> None:
        """Wait, with the lock held, until nobody is inside with another setting."""
        self.waiting += 1
        try:
            while self.inside and self.current != setting:
                self.changed.wait()
        finally:
            self.waiting -= 1


class _Turn:
    """A block of `Turns`, in few calls: it is entered in each layer of each step."""

    __slots__ = ("_setting", "_turns")

    def __init__(self, turns: Turns[Any], setting: Any) -> None:
        self._turns, self._setting = turns, setting

    def __enter__(self) -> None:
        """Wait until no other setting is in use, and apply this one."""
        turns, setting = self._turns, self._setting
        with turns.lock:
            if turns.inside and turns.current != setting:
                turns.wait_for(setting)
            if not turns.inside:
                block = turns.applied(setting)
                block.__enter__()
                turns.current, turns.block = setting, block
            turns.inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore what was before, where nobody else is inside."""
        turns = self._turns
        with turns.lock:
            turns.inside -= 1
            if not turns.inside:
                turns.block.__exit__(None, None, None)
                if turns.waiting:
                    turns.changed.notify_all()
