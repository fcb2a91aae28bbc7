"""Named choices of one axis, in order from simple to elaborate."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, Protocol, TypeVar


class Named(Protocol):
    """Anything that carries its own name."""

    @property
    def name(self) -> str: ...


Entry = TypeVar("Entry", bound=Named)


class UnknownChoiceError(KeyError, ValueError):
    """A name that its registry does not hold; the message lists the ones it does."""

    def __init__(self, axis: str, name: str, known: Iterable[str]) -> None:
        super().__init__(name)
        self.message = f"{axis} must be one of {', '.join(known)}; got {name}"

    def __str__(self) -> str:
        return self.message


class Registry(Mapping[str, Entry], Generic[Entry]):
    """The choices of one axis by name; the order is the order of preference in a tie."""

    def __init__(self, axis: str, entries: Iterable[Entry]) -> None:
        self.axis = axis
        self._entries = {entry.name: entry for entry in entries}
        self._own = len(self._entries)

    def register(self, entry: Entry) -> None:
        """Add a choice of a plugin's, behind all others.

        Raises:
            ValueError: The name is taken or cannot be written on a command line.
            TypeError: It is not what this registry holds.
        """
        kind = type(next(iter(self._entries.values())))
        if not isinstance(entry, kind):
            raise TypeError(f"{self.axis} must be a {kind.__name__}, got {type(entry).__name__}")
        if not re.fullmatch("[a-z][a-z0-9_]*", entry.name):
            raise ValueError(f"{self.axis} must be named by a-z, 0-9 and _, got {entry.name!r}")
        if entry.name in self._entries:
            raise ValueError(f"{self.axis} {entry.name} exists already")
        self._entries[entry.name] = entry

    @property
    def added(self) -> tuple[str, ...]:
        """The names that plugins have registered."""
        return tuple(self._entries)[self._own :]

    def __getitem__(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownChoiceError(self.axis, name, self._entries) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def rank(self, name: str) -> int:
        """Return the place of `name` in the registry: the lower, the simpler."""
        return list(self._entries).index(self[name].name)
