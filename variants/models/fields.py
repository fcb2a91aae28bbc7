"""The fields of a configuration, each read once under a meaning, and those that nobody read.

A field that is left out has its class's default. `null` is a value of its own: most classes
derive a size from others where it is null, and none takes it for left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from variants.models.architecture import ModelError

LARGEST = 2**31 - 1  # of a size; larger ones are no shapes of tensors


class Fields:
    """One object of a configuration file.

    Args:
        values: The object.
        source: What messages begin with: the file.
        path: Where in the file the object stands, `text_config.` with its dot.
    """

    def __init__(self, values: Mapping[str, Any], source: str, path: str = "") -> None:
        """Begin with no field read."""
        self.values = values
        self.source = source
        self.path = path
        self._read: set[str] = set()

    def refuse(self, text: str) -> ModelError:
        """Return the error whose message, one line, names the file."""
        return ModelError(f"{self.source}: {self.path}{' '.join(text.split())}")

    def given(self, *names: str) -> dict[str, Any]:
        """Return those of the fields that are there, and count them as read."""
        self._read.update(names)
        return {name: self.values[name] for name in names if name in self.values}

    def unread(self) -> dict[str, Any]:
        """Return the fields that nobody asked for."""
        return {name: value for name, value in self.values.items() if name not in self._read}

    def value(self, *names: str, default: Any = None) -> Any:
        """Return a field that may have several names; `null` only where no name says more.

        Raises:
            ModelError: Two of the names say different things.
        """
        given = self.given(*names)
        if not given:
            return default
        told = {name: value for name, value in given.items() if value is not None}
        for name, value in told.items():
            first = next(iter(told))
            if value != told[first]:
                raise self.refuse(f"{first} {told[first]!r} contradicts {name} {value!r}")
        return next(iter(told.values()), None)

    def size(self, *names: str, default: int | None = None) -> int:
        """Return a positive integer.

        Raises:
            ModelError: It is something else, or there is neither a field nor a default.
        """
        if not self.given(*names) and default is None:
            raise self.refuse(f"{names[0]} must be there, got none")
        return self._positive(names, self.value(*names, default=default))

    def optional_size(self, *names: str, default: int | None = None) -> int | None:
        """Return a positive integer, or None where it is null, or left out without a default."""
        value = self.value(*names, default=default)
        return None if value is None else self._positive(names, value)

    def _positive(self, names: tuple[str, ...], value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LARGEST:
            name = next(iter(self.given(*names)), names[0])
            raise self.refuse(f"{name} must be a positive integer, got {shown(value)}")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """Return true or false; null is false, as it is where a class asks for its truth."""
        value = self.value(name, default=default)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.refuse(f"{name} must be true or false, got {shown(value)}")
        return value

    def names(self, name: str) -> list[str] | None:
        """Return a list of names; None where it is null or left out."""
        value = self.value(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise self.refuse(f"{name} must be a list of names, got {shown(value)}")
        return value

    def indices(self, name: str, count: int, default: Sequence[int] = ()) -> set[int]:
        """Return the layers that a list names, of `count` layers; the default where it is null."""
        value = self.value(name)
        value = default if value is None else value
        whole = isinstance(value, list | tuple | range) and all(
            isinstance(entry, int) and not isinstance(entry, bool) for entry in value
        )
        if not whole or not all(0 <= entry < count for entry in value):
            raise self.refuse(
                f"{name} must be a list of layers from 0 to {count - 1}, got {shown(value)}"
            )
        if len(set(value)) < len(value):
            raise self.refuse(f"{name} must name each layer once, got {shown(value)}")
        return set(value)

    def inside(self, name: str) -> Fields:
        """Return the fields of an object that stands in a field; empty where there is none."""
        value = self.value(name)
        if value is not None and not isinstance(value, Mapping):
            raise self.refuse(f"{name} must be an object, got {shown(value)}")
        return Fields(value or {}, self.source, f"{self.path}{name}.")

    def must_be(self, name: str, allowed: Sequence[Any], reason: str) -> None:
        """Refuse a value that means another attention than ours; left out or null is allowed."""
        value = self.value(name)
        if value is not None and not any(
            value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed
        ):
            told = " or ".join(shown(one) for one in allowed)
            raise self.refuse(f"{name} must be {told} ({reason}), got {shown(value)}")


def shown(value: Any) -> str:
    """Return a value as JSON has it, cut to what a message can hold."""
    text = {None: "null", True: "true", False: "false"}.get(value) if _plain(value) else None
    text = text or repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool)
