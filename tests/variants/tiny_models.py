"""Tiny models of transformers that tell what their attention is given, for comparison.

Nothing here knows how the product reads a configuration: the numbers come from attributes of
transformers' configuration classes, and from what running models hand to their attention.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

TOKENS = 12
WINDOW = 5
SIZES = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 6,
    "head_dim": 24,
    "intermediate_size": 32,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 99,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 64,
    "sliding_window": WINDOW,
    "use_sliding_window": True,
    "max_window_layers": 4,
}
_LEAVE_OUT: dict[str, tuple[str, ...]] = {
    "cohere2": ("head_dim",),
    "dbrx": ("num_key_value_heads",),
    "falcon": ("head_dim",),
    "gpt_bigcode": ("num_key_value_heads",),
    "granitemoehybrid": ("num_hidden_layers",),
    "helium": ("head_dim",),
    "minimax": ("sliding_window",),
    "qwen3_moe": ("use_sliding_window",),
    "qwen3_omni_moe_text": ("use_sliding_window", "sliding_window"),
    "qwen3_vl_moe_text": ("sliding_window",),
    "nemotron_h": ("num_hidden_layers", "sliding_window"),
    "recurrent_gemma": ("head_dim",),
}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 32}
_SECTIONS = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
_WIDE_SECTIONS = _SECTIONS | {"mrope_section": [4, 4, 4]}
_HYBRID = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
_OWN: dict[str, dict[str, Any]] = {
    "bamba": _MAMBA | {"attn_layer_indices": [1, 4]},
    "codegen": {"rotary_dim": 8},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8}},
    "dots1": {"n_shared_experts": 1},
    "falcon": {"num_kv_heads": 2, "new_decoder_architecture": True},
    "falcon_h1": _MAMBA | {"mamba_d_ssm": 128},
    "glm4v_moe_text": {"rope_parameters": _SECTIONS | {"mrope_section": [1, 1, 2]}},
    "glm4v_text": {"rope_parameters": _SECTIONS},
    "gpt_neo": {"attention_types": [[["global", "local"], 3]], "window_size": WINDOW},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": _MAMBA | {"num_hidden_layers": 4, "layer_types": _HYBRID},
    "helium": {"head_dim": 16},
    "hunyuan_v1_dense": {"head_dim": 24},
    "hunyuan_v1_moe": {"head_dim": 24},
    "lfm2": {"full_attn_idxs": [1, 4]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 3},
    "ministral": {"head_dim": 24},
    "mllama_text_model": {"cross_attention_layers": [1, 4]},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "full_attention", "moe", "mlp"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 32,
        "n_groups": 1,
    },
    "paddleocr_vl_text": {"rope_parameters": _WIDE_SECTIONS},
    "qwen2_5_omni_text": {"rope_parameters": _SECTIONS},
    "qwen2_5_vl_text": {"rope_parameters": _SECTIONS},
    "qwen2_vl_text": {"rope_parameters": _SECTIONS},
    "qwen3_omni_moe_text": {"head_dim": 24, "rope_parameters": _WIDE_SECTIONS},
    "qwen3_vl_moe_text": {"head_dim": 24, "rope_parameters": _WIDE_SECTIONS},
}  # fmt: skip
# Language models that no automatic class builds.
_CLASSES = {
    "emu3_text_model": ("emu3", "Emu3TextModel"),
    "mllama_text_model": ("mllama", "MllamaTextModel"),
    "paddleocr_vl_text": ("paddleocr_vl", "PaddleOCRTextModel"),
    "qwen2_5_omni_text": ("qwen2_5_omni", "Qwen2_5OmniThinkerTextModel"),
    "qwen3_omni_moe_text": ("qwen3_omni_moe", "Qwen3OmniMoeThinkerTextModel"),
}
# Attention that transformers' interface does not reach: its projections tell its heads.
OWN_ATTENTION = {
    "bloom", "codegen", "falcon", "gpt_neo", "gpt_neox_japanese", "gptj", "mpt", "openai-gpt",
    "xglm",
}  # fmt: skip
_PROJECTIONS = {"q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "Wqkv", "c_attn"}


class Numbers(NamedTuple):
    """The attention of a model, however it was found."""

    q_heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    layers: dict[str, int]


def as_file(config: Any, *, defaults: bool) -> dict[str, Any]:
    """Return what a configuration writes to a file, with or without its class's defaults."""
    document = config.to_dict() if defaults else config.to_diff_dict()
    read: dict[str, Any] = json.loads(json.dumps(document, default=str))
    return read


def numbers_of(config: Any) -> Numbers:
    """Return what the attributes of transformers' configuration say of its decoder."""
    text = config.get_text_config(decoder=True)
    q_heads, layers = text.num_attention_heads, text.num_hidden_layers
    kv_heads = getattr(text, "num_key_value_heads", None) or q_heads
    window = getattr(text, "sliding_window", None)
    types = getattr(text, "layer_types", None)
    match text.model_type:
        case "falcon" if text.multi_query and not text.new_decoder_architecture:
            kv_heads = 1
        case "falcon":
            kv_heads = text.num_kv_heads
        case "dbrx":
            kv_heads = text.attn_config.kv_n_heads
        case "gpt_bigcode":
            kv_heads = 1 if text.multi_query else q_heads
        case "gpt_neo":
            window = text.window_size
            types = [
                "sliding_attention" if kind == "local" else "full_attention"
                for kind in text.attention_layers
            ]
        case "mllama_text_model":
            types = [
                "cross" if layer in text.cross_attention_layers else "full_attention"
                for layer in range(layers)
            ]
    types = types or ["sliding_attention" if window else "full_attention"] * layers
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // q_heads
    return Numbers(q_heads, kv_heads, head_dim, text.hidden_size, _layers(types, text, window))


def _layers(types: list[str], text: Any, window: int | None) -> dict[str, int]:
    counts: Counter[str] = Counter()
    alibi = text.model_type == "bloom" or (text.model_type == "mpt" and text.attn_config.alibi)
    cap = getattr(text, "attn_logit_softcapping", None)
    always = (["alibi"] if alibi else []) + ([f"softcap:{int(cap)}"] if cap else [])
    for kind in types:
        match kind:
            case "full_attention" | "hybrid":  # attention beside a recurrence
                counts["+".join(always) or "none"] += 1
            case "sliding_attention":
                counts["+".join([*always, f"sliding_window:{window}"])] += 1
    return dict(counts)


def tiny(model_type: str) -> Any:
    """Return a tiny configuration of a family; head_dim is no quotient where a class takes one."""
    kind = CONFIG_MAPPING[model_type]
    names = getattr(kind, "attribute_map", {})
    base = kind()
    left_out = _LEAVE_OUT.get(model_type, ())
    sizes = {
        names.get(name, name): value
        for name, value in SIZES.items()
        if name not in left_out
        and hasattr(base, names.get(name, name))
        and not (name == "head_dim" and not isinstance(base.head_dim, int))
        and not isinstance(getattr(kind, names.get(name, name), None), property)
    }
    return kind(**sizes | _OWN.get(model_type, {}))


def build(config: Any, attention: str) -> torch.nn.Module:
    """Build the language model of a configuration, randomly initialised."""
    torch.manual_seed(0)
    if config.model_type in _CLASSES:
        module, name = _CLASSES[config.model_type]
        found = importlib.import_module(f"transformers.models.{module}.modeling_{module}")
        config._attn_implementation = attention
        return getattr(found, name)(config)  # type: ignore[no-any-return]
    for automatic in (AutoModelForCausalLM, AutoModel):
        if type(config) in automatic._model_mapping:
            return automatic.from_config(config, attn_implementation=attention)
    raise LookupError(config.model_type)


class Call(NamedTuple):
    """What one layer gave to its attention."""

    q_heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    visible: int  # keys that the last query sees
    sinks: bool


@contextmanager
def recorded_attention() -> Iterator[list[Call]]:
    """Offer an attention named `recorder` that keeps what it is given, and returns zeros."""
    calls: list[Call] = []

    def record(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **others: Any,
    ) -> tuple[torch.Tensor, None]:
        visible = (
            key.shape[2] if attention_mask is None else int((attention_mask[0, 0, -1] == 0).sum())
        )
        sinks = others.get("s_aux") is not None
        calls.append(
            Call(query.shape[1], key.shape[1], query.shape[3], value.shape[3], visible, sinks)
        )
        batch, heads, tokens, _ = query.shape
        return torch.zeros(batch, tokens, heads, value.shape[3]), None

    ALL_ATTENTION_FUNCTIONS.register("recorder", record)
    ALL_MASK_ATTENTION_FUNCTIONS.register("recorder", eager_mask)
    try:
        yield calls
    finally:
        del type(ALL_ATTENTION_FUNCTIONS)._global_mapping["recorder"]
        del type(ALL_MASK_ATTENTION_FUNCTIONS)._global_mapping["recorder"]


def projected(model: torch.nn.Module) -> list[int]:
    """Return how many elements each attention layer projects a token to: queries, keys, values."""
    layers = []
    for module in model.modules():
        widths = [
            child.nf if hasattr(child, "nf") else child.out_features
            for name, child in module.named_children()
            if name in _PROJECTIONS
        ]
        if widths:
            layers.append(sum(widths))
    return layers


def declared_here(families: Iterable[str]) -> list[str]:
    """Return those of the families that the installed transformers has."""
    return sorted(set(families) & set(CONFIG_MAPPING_NAMES))
