"""Reads a Hugging Face `config.json` by the declaration of its `model_type`, or refuses it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from variants.models.alibi_families import ALIBI_FAMILIES
from variants.models.architecture import Model, ModelError
from variants.models.family import Family
from variants.models.fields import Fields
from variants.models.full_families import FULL_FAMILIES
from variants.models.hybrid_families import HYBRID_FAMILIES
from variants.models.layer_kinds import ANY_TYPE, Kind, kinds_of
from variants.models.published import MODELS
from variants.models.undeclared import REASONS
from variants.models.unread import refuse_unread
from variants.models.windowed_families import WINDOWED_FAMILIES
from variants.models.wrappers import FLAT, SAME_PLACE, WRAPPERS

FAMILIES = {
    model_type: family
    for family in (*FULL_FAMILIES, *WINDOWED_FAMILIES, *HYBRID_FAMILIES, *ALIBI_FAMILIES)
    for model_type in family.model_types
}
MOST_LAYERS = 4096  # that a file may say; one kind is kept for each
_POSITIONS = ("rope", "rotary", "rope_gptj", "rope_llama", "nope", "none", "absolute", "learned",
              "learned_absolute")  # fmt: skip


def read_model(name_or_path: str) -> Model:
    """Return a model of the registry, or that of a `config.json` in Hugging Face's format.

    Raises:
        UnknownChoiceError: There is neither such a model nor such a file.
        ModelError: The file cannot be read, or holds what cannot be expressed.
    """
    path = Path(name_or_path)
    if name_or_path in MODELS or not (path.suffix == ".json" or "/" in name_or_path):
        return MODELS[name_or_path]
    if path.is_dir():
        path /= "config.json"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"model must be a file that can be read, got {path}: {error}") from None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:  # numbers of too many digits, too
        raise ModelError(f"model must be a JSON file, got {path}: {error}") from None
    if not isinstance(document, dict):
        raise ModelError(f"{path}: a model must be an object, got {type(document).__name__}")
    return model_from_config(document, str(path))


def model_from_config(config: Mapping[str, Any], name: str) -> Model:
    """Read a configuration in Hugging Face's format.

    Raises:
        ModelError: The family is not declared, or a field is missing, contradicts another, or
            says of attention what cannot be expressed here.
    """
    fields, model_type = _language_model(Fields(config, name))
    if model_type in REASONS:
        raise fields.refuse(f"model_type {model_type} cannot be expressed: {REASONS[model_type]}")
    if model_type not in FAMILIES:
        raise fields.refuse(
            f"model_type must be a declared family, got {model_type}{_hint(fields)}"
        )
    return _read(fields, FAMILIES[model_type], name)


def _language_model(fields: Fields) -> tuple[Fields, str]:
    """Return the fields of the language model and its type, entering objects on the way."""
    model_type = _model_type(fields, "")
    if model_type not in WRAPPERS:
        return fields, model_type
    path, inner_type = WRAPPERS[model_type]
    if model_type in FLAT and not fields.values.get(path[0]):
        return fields, FLAT[model_type]
    inner = fields
    for step in path:
        _refuse_other_attention(inner)
        there = [place for place in (SAME_PLACE if step in SAME_PLACE else (step,))
                 if inner.values.get(place) is not None]  # fmt: skip
        if len(there) != 1:
            raise inner.refuse(f"{step} must be there in a file of {model_type}, got {there}")
        inner = inner.inside(there[0])
    for name in ("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size",
                 "num_hidden_layers"):  # fmt: skip
        outer, told = fields.values.get(name), inner.values.get(name)
        if outer is not None and told is not None and outer != told:
            raise fields.refuse(f"{name} {outer!r} contradicts {inner.path}{name} {told!r}")
    return inner, _model_type(inner, inner_type)


def _model_type(fields: Fields, default: str) -> str:
    model_type = fields.value("model_type", default=default)
    if not isinstance(model_type, str) or not model_type:
        raise fields.refuse(
            f"model_type must be there, which says what the fields mean, got {model_type!r}"
        )
    return model_type


def _hint(fields: Fields) -> str:
    """Say where another declared language model stands in a file, if it does."""
    places = [
        f"{path} holds a {kind}"
        for path, kind in _types_inside(fields.values, "", depth=3)
        if kind in FAMILIES
    ]
    return f" ({', '.join(places)}: give that object as a file of its own)" if places else ""


def _types_inside(values: Mapping[str, Any], path: str, depth: int) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and depth:
            if isinstance(value.get("model_type"), str):
                yield f"{path}{name}", value["model_type"]
            yield from _types_inside(value, f"{path}{name}.", depth - 1)


def _refuse_other_attention(fields: Fields) -> None:
    """Refuse what makes any family attend otherwise than a causal decoder does."""
    for name in ("is_causal", "causal", "use_causal_mask", "causal_attention"):
        fields.must_be(name, [True], "attention is causal here")
    for name in ("is_encoder_decoder", "add_cross_attention", "use_bidirectional_attention"):
        fields.must_be(name, [False], "attention is causal here, of a decoder alone")
    fields.must_be("position_embedding_type", _POSITIONS, "positions that leave scores alone")


def _read(fields: Fields, family: Family, name: str) -> Model:
    names = family.names
    _refuse_other_attention(fields)
    q_heads = fields.size(*names.q_heads, default=family.q_heads)
    hidden_size = fields.size(*names.hidden_size, default=family.hidden_size)
    layers = (
        family.layers_rule(fields)
        if family.layers_rule is not None
        else fields.size(*names.layers, default=family.layers)
    )
    if layers > MOST_LAYERS:
        raise fields.refuse(f"{names.layers[0]} must be at most {MOST_LAYERS}, got {layers}")
    kv_heads = _kv_heads(fields, family, q_heads)
    head_dim = _head_dim(fields, family, q_heads, hidden_size)
    kinds = family.kinds(fields, layers)
    _refuse_other_kinds(fields, kinds)
    score_mods = family.score_mods(fields)
    counts = _counts(fields, family, kinds, score_mods)
    refuse_unread(fields, family.ignored)
    return Model(
        name=name,
        q_heads=q_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden_size=hidden_size,
        layers=counts,
    )


def _kv_heads(fields: Fields, family: Family, q_heads: int) -> int:
    names = family.names.kv_heads
    if family.kv_rule is not None:
        kv_heads = family.kv_rule(fields, q_heads)
    elif names:
        kv_heads = fields.optional_size(*names, default=family.kv_heads) or q_heads
    else:
        kv_heads = fields.optional_size("num_key_value_heads") or q_heads
        if kv_heads != q_heads:
            raise fields.refuse(
                f"num_key_value_heads must be the number of heads here, {q_heads}, got {kv_heads}"
            )
    if q_heads % kv_heads:
        raise fields.refuse(
            f"num_key_value_heads must divide num_attention_heads {q_heads}, got {kv_heads}"
        )
    return kv_heads


def _head_dim(fields: Fields, family: Family, q_heads: int, hidden_size: int) -> int:
    computed = not family.names.head_dim
    names = family.names.head_dim or ("head_dim",)
    told = fields.optional_size(*names, default=family.head_dim)
    if told is None and family.head_dim is not None:
        raise fields.refuse(f"{names[0]} must be a positive integer, got null")
    if told is not None and (not computed or told * q_heads == hidden_size):
        return told
    if told is not None:
        raise fields.refuse(
            f"head_dim must be hidden_size {hidden_size} / num_attention_heads {q_heads} here, "
            f"got {told}"
        )
    if hidden_size % q_heads:
        raise fields.refuse(
            f"hidden_size must be a multiple of num_attention_heads {q_heads} where there "
            f"is no head_dim, got {hidden_size}"
        )
    return hidden_size // q_heads


def _refuse_other_kinds(fields: Fields, kinds: list[Kind]) -> None:
    """Refuse `layer_types` that the family does not read, unless they say the same."""
    if "layer_types" not in fields.unread():
        return
    types = fields.names("layer_types")
    if types is None:
        return
    told = kinds_of(fields, "layer_types", types, ANY_TYPE, len(kinds))
    if told != kinds:
        raise fields.refuse(
            f"layer_types contradicts the layers of model_type {fields.values.get('model_type')}"
        )


def _counts(
    fields: Fields, family: Family, kinds: list[Kind], score_mods: tuple[str, ...]
) -> dict[str, int]:
    """Return how many layers there are of each kind, by score_mod."""
    names = family.names.window
    if family.window is not None or family.window_switch is not None:
        fields.given(*names)
    on = family.window_switch is None or fields.flag(family.window_switch, default=False)
    counts: dict[str, int] = {}
    for kind in kinds:
        mods = score_mods
        if kind is Kind.OTHER:
            continue
        if kind is Kind.WINDOW:
            window = fields.optional_size(*names, default=family.window) if on else None
            if window is None:
                raise fields.refuse(f"layers have a window, but {names[0]} is off")
            mods = (*mods, f"sliding_window:{window}")
        text = "+".join(mods) or "none"
        counts[text] = counts.get(text, 0) + 1
    if not counts:
        raise fields.refuse(
            f"of the {len(kinds)} layers of model_type {fields.values.get('model_type')} at least "
            "one must attend, got none"
        )
    return counts
