"""Builds a whole model of transformers to try a deployment in: of a name, a file or a folder.

Needs transformers: `pip install '.[hf]'`.
"""

from __future__ import annotations

import copy
import functools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

try:
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        Gemma2Config,
        GenerationConfig,
        LlamaConfig,
        MistralConfig,
    )
except ImportError as error:  # the rest of the product does without
    raise ImportError("a whole model needs transformers: pip install '.[hf]'") from error

from variants.models import MODELS, Model, ModelError
from variants.score_mods import parse_score_mod

# What the registry, which knows attention alone, does not say; those of a Llama of 8B and 2-7B.
MLP_RATIO = 3.5
VOCABULARY = 32_000
_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True, slots=True)
class WholeModel:
    """A model that is ready to generate, and what was taken of what was named."""

    model: Any
    layers: int  # that it has
    layers_named: int  # that the configuration names
    random: bool  # its weights
    assumed: str  # what the source did not say; empty where it said all


def build_model(
    source: str, dtype: torch.dtype, device: torch.device, layers: int, tokens: int
) -> WholeModel:
    """Return a model that never ends an answer by itself, with its first `layers` layers.

    Args:
        source: A name of `variants.models`, a `config.json`, or the folder of a model, whose
            weights are taken where it holds any; all others are random.
        dtype: Of its weights.
        device: Where it runs.
        layers: At most.
        tokens: Of a sequence, that it must have positions for.

    Raises:
        ModelError: transformers has no such model, or cannot build it.
    """
    config = model_config(source, tokens)
    text = config.get_text_config(decoder=True)
    named = text.num_hidden_layers
    kept = min(layers, named)
    cut = with_layers(config, kept)
    folder = _folder_with_weights(source)
    cut.get_text_config(decoder=True).eos_token_id = cut.eos_token_id = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layers that are left out
            if folder is not None:
                model: Any = AutoModelForCausalLM.from_pretrained(
                    folder, config=cut, dtype=dtype, local_files_only=True
                ).to(device)
            else:
                torch.manual_seed(0)
                with device:
                    model = AutoModelForCausalLM.from_config(cut, dtype=dtype)
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(f"{source} cannot be built: {_first_line(error)}") from None
    # None of its own sampling, and no cache but what is given.
    model.generation_config = GenerationConfig(eos_token_id=None, pad_token_id=0, do_sample=False)
    assumed = ""
    if source in MODELS:
        assumed = f"an MLP of {MLP_RATIO:g} times hidden_size and {VOCABULARY} tokens"
    return WholeModel(model.eval(), kept, named, folder is None, assumed)


def model_config(source: str, tokens: int) -> Any:
    """Return the configuration of transformers that a name, a file or a folder stands for.

    Raises:
        ModelError: There is none.
    """
    if source in MODELS:
        return _config_of(MODELS[source], tokens)
    try:
        return AutoConfig.from_pretrained(source, local_files_only=True)
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(
            f"{source} is not a configuration that transformers knows: {_first_line(error)}"
        ) from None


def with_layers(config: Any, layers: int) -> Any:
    """Return a copy of a configuration with its first `layers` layers."""
    cut = copy.deepcopy(config)
    text = cut.get_text_config(decoder=True)
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = list(text.layer_types)[:layers]
    return cut


def layers_that_fit(
    source: str, dtype: torch.dtype, batch: int, tokens: int, free_bytes: int
) -> int:
    """Return how many layers of a model can decode within `free_bytes`, one at least.

    Counted are weights, keys and values twice (a prompt's and a cache's, old and new), and what
    the largest operations of a prompt hold at once.

    Raises:
        ModelError: transformers has no such model.
    """
    config = model_config(source, tokens)
    text = config.get_text_config(decoder=True)
    one, two = (_weights(source, with_layers(config, layers)) for layers in (1, 2))
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    width = dtype.itemsize
    rows = batch * tokens * width
    a_layer = (two - one) * width + 2 * (2 * rows * heads * head_dim)
    intermediate = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    beside = (2 * one - two) * width + rows * (3 * intermediate + 6 * text.hidden_size)
    return int(max(1, min(text.num_hidden_layers, (free_bytes - beside) // a_layer)))


@functools.cache
def _meta() -> torch.device:
    return torch.device("meta")


def _weights(source: str, config: Any) -> int:
    try:
        with _meta():
            model: nn.Module = AutoModelForCausalLM.from_config(config)
    except (ValueError, KeyError) as error:
        raise ModelError(f"{source} cannot be built: {_first_line(error)}") from None
    return sum(weight.numel() for weight in model.parameters())


def _folder_with_weights(source: str) -> Path | None:
    folder = Path(source)
    if source in MODELS or not folder.is_dir():
        return None
    return folder if any(found for kind in _WEIGHTS for found in folder.glob(kind)) else None


def _config_of(shape: Model, tokens: int) -> Any:
    """Return a Llama, Mistral or Gemma 2 with the attention of a model of the registry.

    Raises:
        ModelError: Its layers do to their scores what none of these does.
    """
    kinds = [parse_score_mod(kind) for kind in shape.layers]
    parts = {part.entry.name: part.parameter for kind in kinds for part in kind.parts}
    sizes: dict[str, Any] = {
        "num_attention_heads": shape.q_heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_size": shape.hidden_size,
        "intermediate_size": int(MLP_RATIO * shape.hidden_size),
        "num_hidden_layers": sum(shape.layers.values()),
        "vocab_size": VOCABULARY,
        "max_position_embeddings": max(8192, tokens),
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": None,
    }
    if parts.keys() <= {"none"}:
        return LlamaConfig(**sizes)
    if parts.keys() == {"sliding_window"} and len(kinds) == 1:
        return MistralConfig(**sizes, sliding_window=parts["sliding_window"])
    if parts.keys() == {"sliding_window", "softcap"} and all(
        kind.parts[0].entry.name == "softcap" for kind in kinds
    ):
        every_other = ("sliding_attention", "full_attention")
        return Gemma2Config(
            **sizes,
            attn_logit_softcapping=float(parts["softcap"]),
            sliding_window=parts["sliding_window"],
            query_pre_attn_scalar=shape.head_dim,
            layer_types=[every_other[i % 2] for i in range(sizes["num_hidden_layers"])],
        )
    raise ModelError(
        f"model must have layers that Llama, Mistral or Gemma 2 of transformers compute, and "
        f"{shape.name} has {', '.join(shape.layers)}"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
