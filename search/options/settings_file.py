"""The `--settings` option: a TOML file that says what a command's other options would.

Keys are the long names of options without their dashes in front, `max-error` or `max_error`. Those
of the file itself are of the command that is typed; those of a table, `[run]`, of the command that
it names. What is typed wins, then the environment, then the file.
"""

from __future__ import annotations

import functools
import inspect
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from search.options.choices import UsageError
from search.options.help_panels import GENERAL
from studies.storage.url import shown

_SETTINGS = "settings"
_KEY = "goldilocks.settings"  # of a context's notes: the file that was read
_LISTS = ("A,B", "N,N")  # metavars of options that take a list in one text


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """What a settings file says to one command."""

    path: Path
    values: Mapping[str, Any]  # by the names of the command's parameters
    options: Mapping[str, str]  # the keys of the same, with their dashes

    def taken(self, context: typer.Context) -> str:
        """Return in one line what was taken from the file, and what the command line replaced."""
        won = [name for name in self.values if not came_from_file(context, name)]
        said = [
            f"{option} {_shown(name, self.values[name])}"
            for name, option in self.options.items()
            if name not in won
        ]
        line = f"from {self.path}: {', '.join(said) or 'nothing'}"
        replaced = ", ".join(self.options[name] for name in won)
        return f"{line}; given otherwise: {replaced}" if won else line


def came_from_file(context: typer.Context, name: str) -> bool:
    """Tell whether a parameter's value is the settings file's."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "DEFAULT_MAP"


def file_behind(error: object) -> str:
    """Return the settings file whose value an error of the command line is about, or nothing."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    if context is None or parameter is None or not came_from_file(context, parameter.name):
        return ""
    return str(context.meta[_KEY].path)


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take the option `--settings`, for all of its other options."""
    hints = get_type_hints(command, include_extras=True)
    parameters = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
    ]
    option = typer.Option(
        f"--{_SETTINGS}",
        metavar="FILE.toml",
        rich_help_panel=GENERAL,
        is_eager=True,
        callback=_reader({parameter.name: parameter.annotation for parameter in parameters}),
        help="A TOML file with any of these options by their names; what is typed wins.",
    )

    @functools.wraps(command)
    def told(context: typer.Context, settings_file: Path | None = None, **given: Any) -> None:
        if settings_file is not None:
            print(context.meta[_KEY].taken(context), file=sys.stderr)
        command(**given)

    keyword = inspect.Parameter.KEYWORD_ONLY
    all_of_them = [
        *parameters,
        inspect.Parameter(
            "settings_file", keyword, default=None, annotation=Annotated[Path | None, option]
        ),
        inspect.Parameter("context", keyword, annotation=typer.Context),
    ]
    signature = inspect.Signature([each.replace(kind=keyword) for each in all_of_them])
    told.__signature__ = signature  # type: ignore[attr-defined]
    told.__annotations__ = {each.name: each.annotation for each in all_of_them}
    return told


def _reader(
    annotations: Mapping[str, Any],
) -> Callable[[typer.Context, Path | None], Path | None]:
    """Return what reads the file of a command whose parameters are annotated so."""

    def read(context: typer.Context, path: Path | None) -> Path | None:
        if path is not None and not context.resilient_parsing:
            found = _read(path, context, annotations)
            context.meta[_KEY] = found
            context.default_map = dict(found.values)
        return path

    return read


def _read(path: Path, context: typer.Context, annotations: Mapping[str, Any]) -> SettingsFile:
    command: Any = context.command
    siblings: Any = context.parent.command if context.parent else command
    document = _document(path)
    tables = {key: value for key, value in document.items() if isinstance(value, dict)}
    unknown = [key for key in tables if key not in getattr(siblings, "commands", {})]
    if unknown:
        raise UsageError(
            f"--settings {path}: a table must be named as a command, got [{unknown[0]}]"
        )
    own = {key: value for key, value in document.items() if key not in tables}
    known = {
        option.removeprefix("--"): parameter
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--") and parameter.name in annotations
    }
    values, options = {}, {}
    for key, value in (own | tables.get(str(command.name), {})).items():
        name = key.replace("_", "-")
        if name not in known:
            raise UsageError(
                f"--settings {path}: {key} must be an option of {command.name}: "
                f"{', '.join(known)}; got {key}"
            )
        parameter = known[name]
        try:
            text = _value(annotations[parameter.name], value, parameter.metavar in _LISTS)
        except ValueError as error:
            raise UsageError(f"--settings {path}: {key} must be {error}, got {value!r}") from None
        values[parameter.name], options[parameter.name] = text, f"--{name}"
    return SettingsFile(path, values, options)


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"--settings must be a file that can be read, got {path}: {error.strerror}"
        ) from None
    except (ValueError, RecursionError) as error:  # numbers of too many digits, too
        raise UsageError(f"--settings must be a TOML file, got {path}: {error}") from None


def _value(annotation: Any, value: Any, in_one_text: bool) -> Any:
    """Return a value as the command line would give it.

    Raises:
        ValueError: It is of another type; the message says of which it must be.
    """
    kind = _type_of(annotation)
    if get_origin(kind) is list or in_one_text:
        several = value if isinstance(value, list) else [value]
        if not several or not all(_is_text(each) for each in several):
            raise ValueError("a text or a list of texts")
        texts = [str(each) for each in several]
        return ",".join(texts) if in_one_text else texts
    fits, expected = _KINDS.get(kind, (_is_text, "a text"))
    if not fits(value):
        raise ValueError(expected)
    return value if kind in _KINDS else str(value)


def _is_text(value: object) -> bool:
    """Tell whether a value is a text, or a number that a text may be."""
    return isinstance(value, str) or _is_whole(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# What a value of each type must be in TOML, where that is not a text.
_KINDS: dict[Any, tuple[Callable[[object], bool], str]] = {
    bool: (lambda value: isinstance(value, bool), "true or false"),
    int: (_is_whole, "a whole number"),
    float: (lambda value: isinstance(value, float) or _is_whole(value), "a number"),
}


def _type_of(annotation: Any) -> Any:
    """Return the type that an option is read as, less its declaration and None."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (each for each in get_args(annotation) if each is not type(None))
    return str if get_origin(annotation) is Literal else annotation


def _shown(name: str, value: Any) -> str:
    if name == "storage":  # it may hold a password, which is refused where the option is read
        return shown(str(value))
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
