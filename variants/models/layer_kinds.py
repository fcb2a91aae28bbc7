"""How a configuration says which of its layers attend, and which of these in a window.

A rule gives one kind for each layer of the model, in order, from the fields of its family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from variants.models.fields import Fields, shown


class Kind(Enum):
    """What a layer does, as far as the cost of attention goes."""

    FULL = "full"  # every token sees all before it
    WINDOW = "window"  # every token sees the last ones
    OTHER = "other"  # no attention among the tokens: recurrence, convolution, MLP, another's keys


LayerRule = Callable[[Fields, int], list[Kind]]

FULL_OR_WINDOW = {"full_attention": Kind.FULL, "sliding_attention": Kind.WINDOW}
FULL_OR_RECURRENT = {
    "full_attention": Kind.FULL,
    "attention": Kind.FULL,
    "linear_attention": Kind.OTHER,
    "mamba": Kind.OTHER,
}
FULL_OR_CONVOLUTION = {"full_attention": Kind.FULL, "conv": Kind.OTHER}
ANY_TYPE = FULL_OR_WINDOW | FULL_OR_RECURRENT | FULL_OR_CONVOLUTION


def every_layer(fields: Fields, layers: int) -> list[Kind]:
    """Every layer sees all before it."""
    return [Kind.FULL] * layers


def window_in_every_layer(default: int | None) -> LayerRule:
    """Every layer has the window, where there is one: Mistral."""

    def rule(fields: Fields, layers: int) -> list[Kind]:
        off = fields.value("sliding_window", default=default) is None
        return [Kind.FULL if off else Kind.WINDOW] * layers

    return rule


def full_every(*names: str, default: int) -> LayerRule:
    """The last of each so many layers sees all, the rest a window: Gemma 3."""

    def rule(fields: Fields, layers: int) -> list[Kind]:
        period = fields.size(*names, default=default)
        return [Kind.WINDOW if (i + 1) % period else Kind.FULL for i in range(layers)]

    return rule


def first_full_of(period: int) -> LayerRule:
    """The first of each `period` layers sees all, the rest a window: CWM."""

    def rule(fields: Fields, layers: int) -> list[Kind]:
        return [Kind.WINDOW if i % period else Kind.FULL for i in range(layers)]

    return rule


def attention_every(name: str, default: int) -> LayerRule:
    """The last of each so many layers attends, the rest is recurrent: Qwen3-Next."""

    def rule(fields: Fields, layers: int) -> list[Kind]:
        period = fields.size(name, default=default)
        return [Kind.OTHER if (i + 1) % period else Kind.FULL for i in range(layers)]

    return rule


def attention_at_offset(fields: Fields, layers: int) -> list[Kind]:
    """One layer of a period attends, at an offset, the rest is recurrent: Jamba."""
    period = fields.size("attn_layer_period", default=8)
    offset = fields.value("attn_layer_offset", default=4)
    if isinstance(offset, bool) or not isinstance(offset, int) or not 0 <= offset < period:
        raise fields.refuse(
            f"attn_layer_offset must be below attn_layer_period {period}, got {shown(offset)}"
        )
    return [Kind.FULL if i % period == offset else Kind.OTHER for i in range(layers)]


def attention_at(name: str, *, elsewhere: Kind = Kind.OTHER) -> LayerRule:
    """The layers of a list attend: Bamba."""

    def rule(fields: Fields, layers: int) -> list[Kind]:
        named = fields.indices(name, layers)
        return [Kind.FULL if i in named else elsewhere for i in range(layers)]

    return rule


def all_or_at(name: str) -> LayerRule:
    """The layers of a list attend, and all of them where there is no list: LFM2."""

    def rule(fields: Fields, layers: int) -> list[Kind]:
        named = fields.indices(name, layers, default=range(layers))
        return [Kind.FULL if i in named else Kind.OTHER for i in range(layers)]

    return rule


def cross_attention_at(name: str, default: tuple[int, ...]) -> LayerRule:
    """The layers of a list attend to an image instead of to their own tokens: Llama 3.2 Vision."""

    def rule(fields: Fields, layers: int) -> list[Kind]:
        named = fields.indices(name, layers, default=default)
        return [Kind.OTHER if i in named else Kind.FULL for i in range(layers)]

    return rule


def window_from(default_first: int | None) -> LayerRule:
    """Where windows are switched on, layers from `max_window_layers` on have one: Qwen2.

    Args:
        default_first: What the class has for `max_window_layers`; None where versions of the
            class disagree about which layers have the window, so that it must be switched off.
    """

    def rule(fields: Fields, layers: int) -> list[Kind]:
        on = fields.flag("use_sliding_window", default=False)
        window = fields.value("sliding_window", default=4096)
        first = fields.value("max_window_layers", default=default_first)
        if not on or window is None:
            return [Kind.FULL] * layers
        if default_first is None:
            raise fields.refuse("use_sliding_window must be false without layer_types, got true")
        return _windows_from(fields, first, layers)

    return rule


def window_from_always(default_first: int) -> LayerRule:
    """Layers from `max_window_layers` on have the window, where there is one: dots.llm1."""

    def rule(fields: Fields, layers: int) -> list[Kind]:
        window = fields.value("sliding_window", default=4096)
        first = fields.value("max_window_layers", default=default_first)
        kinds = [Kind.FULL] * layers if window is None else _windows_from(fields, first, layers)
        if Kind.WINDOW in kinds:
            fields.must_be("use_sliding_window", [True], "max_window_layers gives layers a window")
        fields.given("use_sliding_window")
        return kinds

    return rule


def _windows_from(fields: Fields, first: Any, layers: int) -> list[Kind]:
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:
        raise fields.refuse(f"max_window_layers must be a count of layers, got {shown(first)}")
    return [Kind.WINDOW if i >= first else Kind.FULL for i in range(layers)]


def listed(
    names: Mapping[str, Kind],
    otherwise: LayerRule,
    *,
    field: str = "layer_types",
    beside: tuple[str, ...] = (),
) -> LayerRule:
    """Each layer by name where the file has a list, else by another rule.

    Args:
        names: What the entries of the list mean.
        otherwise: The rule for files without a list.
        field: The list.
        beside: Fields that the list was made from, which mean nothing more beside it.
    """

    def rule(fields: Fields, layers: int) -> list[Kind]:
        types = fields.names(field)
        if types is None:
            return otherwise(fields, layers)
        fields.given(*beside)
        return kinds_of(fields, field, types, names, layers)

    return rule


def repeated(names: Mapping[str, Kind], default: tuple[str, ...], *fields_of: str) -> LayerRule:
    """A few names are repeated over the layers: RecurrentGemma."""

    def rule(fields: Fields, layers: int) -> list[Kind]:
        told = [types for types in map(fields.names, fields_of) if types is not None]
        types = told[0] if told else list(default)
        if not types or types != (told or [types])[-1]:
            raise fields.refuse(f"{' and '.join(fields_of)} must name the same layers, got {told}")
        all_types = [types[i % len(types)] for i in range(layers)]
        return kinds_of(fields, fields_of[0], all_types, names, layers)

    return rule


def kinds_of(
    fields: Fields, field: str, types: list[str], names: Mapping[str, Kind], layers: int
) -> list[Kind]:
    """Return the kind of each layer of a list.

    Raises:
        ModelError: There are more or fewer entries than layers, or a name has no meaning here.
    """
    if len(types) != layers:
        raise fields.refuse(f"{field} must have {layers} entries, got {len(types)} entries")
    strange = sorted(set(types) - names.keys())
    if strange:
        raise fields.refuse(f"{field} must be among {', '.join(names)}; got {strange[0]}")
    return [names[name] for name in types]


def by_numbers(field: str, numbers: Mapping[int, Kind], otherwise: LayerRule) -> LayerRule:
    """Each layer by a number where the file has a list, else by another rule: MiniMax."""
    names = {str(number): kind for number, kind in numbers.items()}

    def rule(fields: Fields, layers: int) -> list[Kind]:
        types = fields.value(field)
        if types is None:
            return otherwise(fields, layers)
        if not isinstance(types, list):
            raise fields.refuse(
                f"{field} must be a list of {', '.join(names)}, got {shown(types)}"
            )
        return kinds_of(fields, field, [str(entry) for entry in types], names, layers)

    return rule


def global_or_local(fields: Fields, layers: int) -> list[Kind]:
    """Lists of names, each repeated, `[[["global", "local"], 12]]`, or one for all: GPT-Neo."""
    names = {"global": Kind.FULL, "local": Kind.WINDOW}
    groups = fields.value("attention_types", default=[[["global", "local"], 12]])
    kinds = kinds_of(fields, "attention_types", _ungrouped(fields, groups, layers), names, layers)
    told = fields.names("attention_layers")
    if told is not None and kinds_of(fields, "attention_layers", told, names, layers) != kinds:
        raise fields.refuse("attention_layers contradicts attention_types")
    return kinds


def _ungrouped(fields: Fields, groups: Any, layers: int) -> list[str]:
    types: list[str] = []
    for group in groups if isinstance(groups, list) else [None]:
        match group:
            case [list(names), int(times)] if 0 < times <= layers:
                types += [str(name) for name in names] * times
            case _:
                raise fields.refuse(
                    f"attention_types must be a list of [names, times], got {shown(groups)}"
                )
    return types
