"""What was found wrong, in a line."""

from __future__ import annotations

from pydantic import ValidationError


def first_problem(error: ValidationError) -> str:
    """Return the first thing that is wrong with a document, in a line: where, and what."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return " ".join(f"{where}: {first['msg']}".removeprefix(": ").split())


def one_line(error: Exception) -> str:
    """Return what an error says, in a line."""
    if isinstance(error, ValidationError):
        return first_problem(error)
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
