"""Named choices of one axis, in order from simple to elaborate."""

from __future__ import annotations

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
