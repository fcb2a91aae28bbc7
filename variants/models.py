"""Shapes of public architectures, and the same read from a Hugging Face `config.json`.

Only what attention needs: heads, sizes, layers, and what a layer does to its scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from variants.axes import Choice
from variants.registry import Registry
from variants.user_error import UserError


class ModelError(UserError):
    """A configuration that cannot be expressed; the message names the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The attention of one architecture."""

    name: str
    q_heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    layers: Mapping[str, int]  # how many layers there are, by their score_mod

    def axes(self, score_mods: tuple[Choice, ...] = ()) -> dict[str, tuple[Choice, ...]]:
        """Return the workload axes of the model.

        Args:
            score_mods: The kinds of layers that are wanted; all of them if empty.

        Raises:
            ModelError: The model has no such layers, or as many of one kind as of no other, which
                one axis `layers` cannot say.
        """
        unknown = [str(mod) for mod in score_mods if mod not in self.layers]
        if unknown:
            raise ModelError(
                f"score_mod of {self.name} must be one of {', '.join(self.layers)}; "
                f"got {', '.join(unknown)}"
            )
        kinds = {m: n for m, n in self.layers.items() if not score_mods or m in score_mods}
        if len(set(kinds.values())) > 1:
            counts = ", ".join(f"{count} with {mod}" for mod, count in kinds.items())
            raise ModelError(
                f"score_mod must pick one kind of the layers of {self.name} ({counts}), got none"
            )
        return {
            "q_heads": (self.q_heads,),
            "kv_heads": (self.kv_heads,),
            "head_dim": (self.head_dim,),
            "hidden_size": (self.hidden_size,),
            "layers": (next(iter(kinds.values())),),
            "score_mod": tuple(kinds),
        }


def _model(
    name: str, q_heads: int, kv_heads: int, head_dim: int, hidden_size: int, **layers: Any
) -> Model:
    kinds = layers.get("kinds") or {"none": layers["layers"]}
    return Model(
        name=name,
        q_heads=q_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden_size=hidden_size,
        layers=kinds,
    )


_CAPPED, _CAPPED_WINDOW = "softcap:50", "softcap:50+sliding_window:4096"

MODELS = Registry(
    "model",
    [
        _model("gpt2", 12, 12, 64, 768, layers=12),
        _model("llama-3.2-1b", 32, 8, 64, 2048, layers=16),
        _model("llama-3.1-8b", 32, 8, 128, 4096, layers=32),
        _model("llama-3.1-70b", 64, 8, 128, 8192, layers=80),
        _model("qwen2.5-7b", 28, 4, 128, 3584, layers=28),
        _model("qwen3-8b", 32, 8, 128, 4096, layers=36),
        _model("mistral-7b-v0.1", 32, 8, 128, 4096, kinds={"sliding_window:4096": 32}),
        _model("phi-3-mini-4k", 32, 32, 96, 3072, kinds={"sliding_window:2047": 32}),
        _model("gemma-2-9b", 16, 8, 256, 3584, kinds={_CAPPED_WINDOW: 21, _CAPPED: 21}),
        _model("bloom-7b1", 32, 32, 128, 4096, kinds={"alibi": 30}),
        _model("mpt-7b", 32, 32, 128, 4096, kinds={"alibi": 32}),
    ],
)

# The names that one number has in configurations of different architectures.
_ALIASES = {
    "q_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "head_dim": ("head_dim", "d_kv"),
}
# What changes attention in ways that have no words here yet.
_UNKNOWN = (
    "kv_lora_rank",
    "q_lora_rank",
    "attention_chunk_size",
    "relative_attention_num_buckets",
    "index_topk",
    "attention_window",
)


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
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"model must be a file that can be read, got {path}: {error}") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ModelError(f"model must be a JSON file, got {path}: {error}") from None
    if not isinstance(document, dict):
        raise ModelError(f"{path}: a model must be an object, got {type(document).__name__}")
    return model_from_config(document, str(path))


def model_from_config(config: Mapping[str, Any], name: str) -> Model:
    """Read a configuration in Hugging Face's format.

    Raises:
        ModelError: A field is missing, contradicts another, or has no words here.
    """
    inner = config.get("text_config")
    if isinstance(inner, Mapping) and not any(alias in config for alias in _ALIASES["q_heads"]):
        config = inner  # a model of several modalities
    for unknown in _UNKNOWN:
        if config.get(unknown):
            raise ModelError(f"{name}: {unknown} has no counterpart here, got {config[unknown]!r}")
    q_heads = _number(config, "q_heads", name)
    hidden_size = _number(config, "hidden_size", name)
    layers = _number(config, "layers", name)
    kv_heads = _number(config, "kv_heads", name, 1 if config.get("multi_query") else q_heads)
    if q_heads % kv_heads:
        raise ModelError(
            f"{name}: num_key_value_heads must divide num_attention_heads {q_heads}, "
            f"got {kv_heads}"
        )
    if "head_dim" not in config and hidden_size % q_heads:
        raise ModelError(
            f"{name}: hidden_size must be a multiple of num_attention_heads {q_heads} where there "
            f"is no head_dim, got {hidden_size}"
        )
    head_dim = _number(config, "head_dim", name, hidden_size // q_heads)
    return Model(
        name=name,
        q_heads=q_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden_size=hidden_size,
        layers=_kinds(config, layers, name),
    )


def _number(config: Mapping[str, Any], axis: str, name: str, default: int | None = None) -> int:
    given = {alias: config[alias] for alias in _ALIASES[axis] if config.get(alias) is not None}
    if not given:
        if default is None:
            raise ModelError(f"{name}: {_ALIASES[axis][0]} must be there, got none")
        return default
    alias, value = next(iter(given.items()))
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise ModelError(f"{name}: {alias} must be a positive integer, got {value!r}")
    for other, second in given.items():
        if second != value:
            raise ModelError(f"{name}: {alias} {value} contradicts {other} {second!r}")
    return value


def _kinds(config: Mapping[str, Any], layers: int, name: str) -> dict[str, int]:
    """Return how many layers there are of each kind, by score_mod."""
    always = _of_every_layer(config, name)
    full = "+".join(always) or "none"
    types = config.get("layer_types")
    window = config.get("sliding_window")
    if window is None or config.get("use_sliding_window") is False:
        if isinstance(types, list) and "sliding_attention" in types:
            raise ModelError(
                f"{name}: layer_types has sliding_attention, but sliding_window is off"
            )
        return {full: layers}
    if isinstance(window, bool) or not isinstance(window, int) or not 0 < window < 2**31:
        raise ModelError(f"{name}: sliding_window must be a positive integer, got {window!r}")
    windowed = "+".join([*always, f"sliding_window:{window}"])
    if types is not None:
        return _counted(
            types, {"sliding_attention": windowed, "full_attention": full}, layers, name
        )
    if config.get("model_type") == "gemma2":
        # As it was first published: every second layer, beginning with the first.
        return {windowed: -(-layers // 2), full: layers // 2}
    return {windowed: layers}


def _of_every_layer(config: Mapping[str, Any], name: str) -> list[str]:
    mods = []
    inner = config.get("attn_config")
    inner = inner if isinstance(inner, Mapping) else {}
    if config.get("alibi") or inner.get("alibi") or config.get("model_type") == "bloom":
        mods.append("alibi")
    cap = config.get("attn_logit_softcapping")
    if cap is not None:
        if isinstance(cap, bool) or not isinstance(cap, int | float) or not 1 <= cap < 2**31:
            raise ModelError(
                f"{name}: attn_logit_softcapping must be a positive number, got {cap!r}"
            )
        if cap % 1:
            raise ModelError(f"{name}: attn_logit_softcapping must be whole here, got {cap!r}")
        mods.append(f"softcap:{int(cap)}")
    return mods


def _counted(types: Any, names: Mapping[str, str], layers: int, name: str) -> dict[str, int]:
    if not isinstance(types, list) or len(types) != layers:
        got = f"{len(types)} entries" if isinstance(types, list) else repr(types)
        raise ModelError(f"{name}: layer_types must have {layers} entries, got {got}")
    strange = sorted({str(kind) for kind in types} - names.keys())
    if strange:
        raise ModelError(f"{name}: layer_types must be among {', '.join(names)}; got {strange[0]}")
    kinds: dict[str, int] = {}
    for kind in types:
        kinds[names[kind]] = kinds.get(names[kind], 0) + 1
    return kinds
