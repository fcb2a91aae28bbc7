"""Errors as one line of text, for users and for stored reasons."""

from __future__ import annotations

from pydantic import ValidationError


def first_error(error: ValidationError) -> str:
    """Return the first error of a failed validation in a line: which field, and what is wrong."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return " ".join(f"{where}: {first['msg']}".removeprefix(": ").split())


def one_line(error: Exception) -> str:
    """Return the first line of an exception's message, or its type where it has none."""
    if isinstance(error, ValidationError):
        return first_error(error)
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
