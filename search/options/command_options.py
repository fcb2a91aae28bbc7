"""Builds the options of a command from its settings and from the axes.

Typer reads one option from each parameter of a function. Here a parameter may stand for several:
one of a dataclass for an option a field, one of `AxisTexts` for an option an axis.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

import typer

from studies.space.defaults import DEFAULT_AXES
from variants.axes import AXES, VARIANT_AXES


def option_of(axis: str) -> str:
    """Return the option that sets an axis."""
    return "--" + axis.replace("_", "-")


def axis_option(name: str) -> Any:
    """Return the declaration of an axis's option: its help, and what is searched without it."""
    cuda, cpu = (DEFAULT_AXES[kind].get(name) for kind in ("cuda", "cpu"))
    default = ""
    if cuda is not None and cpu is not None:
        texts = [",".join(map(str, choices)) for choices in (cuda, cpu)]
        default = (
            f" [default: {' on CUDA, '.join(texts)} on CPU]"
            if texts[0] != texts[1]
            else (f" [default: {texts[0]}]")
        )
    help_text = f"{AXES[name].help}; a choice or a list.{default}"
    panel = "Variant axes" if name in VARIANT_AXES else "Workload axes"
    return typer.Option(option_of(name), metavar="A,B", help=help_text, rich_help_panel=panel)


@dataclass(frozen=True, slots=True)
class OptionForEachAxis:
    """Marks what takes the texts of the options of all axes."""

    without: tuple[str, ...] = ()


# What was written for each axis, `1,4,16`; None where its option was left out.
AxisTexts = Annotated[Mapping[str, str | None], OptionForEachAxis()]


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let Typer see an option for each field and axis that the command's parameters stand for."""
    parts = {
        name: _Part(name, hint, inspect.signature(command).parameters[name].default)
        for name, hint in get_type_hints(command, include_extras=True).items()
        if name != "return"
    }

    @functools.wraps(command)
    def gathered(**given: Any) -> None:
        command(**{name: part.gathered(given) for name, part in parts.items()})

    parameters = [option for part in parts.values() for option in part.options()]
    gathered.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    gathered.__annotations__ = {option.name: option.annotation for option in parameters}
    return gathered


@dataclass(frozen=True, slots=True)
class _Part:
    """One parameter of a command, or one field of its settings."""

    name: str
    hint: Any
    default: Any

    def options(self) -> Iterator[inspect.Parameter]:
        """Yield the options that it stands for, as parameters of a function."""
        if self._axes is not None:
            for axis in self._axes:
                hint = Annotated[str | None, axis_option(axis)]
                yield _parameter(axis, hint, None)
        elif is_dataclass(self.hint):
            for part in self._fields():
                yield from part.options()
        else:
            yield _parameter(self.name, self.hint, self.default)

    def gathered(self, given: Mapping[str, Any]) -> Any:
        """Return its value, out of those of all options."""
        if self._axes is not None:
            return {axis: given[axis] for axis in self._axes}
        if isinstance(self.hint, type) and is_dataclass(self.hint):
            return self.hint(**{part.name: part.gathered(given) for part in self._fields()})
        return given[self.name]

    @property
    def _axes(self) -> list[str] | None:
        marks = [mark for mark in get_args(self.hint)[1:] if isinstance(mark, OptionForEachAxis)]
        return [axis for axis in AXES if axis not in marks[-1].without] if marks else None

    def _fields(self) -> Iterator[_Part]:
        hints = get_type_hints(self.hint, include_extras=True)
        for each in fields(self.hint):
            yield _Part(each.name, hints[each.name], each.default)


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    """Return a parameter of a function; what has no default must be given."""
    empty = inspect.Parameter.empty
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=empty if default in (MISSING, empty) else default,
        annotation=hint,
    )
