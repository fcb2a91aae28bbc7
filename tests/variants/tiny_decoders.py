"""Every decoder that transformers generates text with, tiny and randomly initialised."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

WINDOW = 12
MAX_PARAMETERS = 16_000_000
# By the names that configurations use, wherever a class has such a field.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "audio_vocab_size"), 128),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "emb_dim", "dim"), 64),
    **dict.fromkeys(("word_embed_proj_dim", "embedding_size", "dim_model"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim"), 96),
    **dict.fromkeys(("ffn_hidden_size", "dff", "n_inner", "dim_ff"), 96),
    "shared_intermediate_size": 96,
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "decoder_layers"), 2),
    **dict.fromkeys(("encoder_layers", "num_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "kv_channels", "swa_head_dim", "global_head_dim"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 256),
    **dict.fromkeys(("max_target_positions", "max_source_positions"), 256),
    **dict.fromkeys(("num_experts", "num_local_experts"), 4),
    **dict.fromkeys(("n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "expert_ffn_size"), 32),
    "shared_expert_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32,
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts"), 1),
    **dict.fromkeys(("q_lora_rank", "o_lora_rank", "index_head_dim"), 16),
    **dict.fromkeys(("kv_lora_rank", "qk_nope_head_dim", "v_head_dim"), 16),
    "qk_rope_head_dim": 8,
    "qk_head_dim": 24,
    "index_n_heads": 2,
    "index_topk": 8,
    "sliding_window": WINDOW,
    "attention_chunk_size": WINDOW,
    "attention_window_size": WINDOW,
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 32),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "state_size"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), 8),
    "mamba_n_groups": 1,
    "mamba_d_ssm": 128,
    "lru_width": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "initializer_range": 0.2,  # so that the next token is no toss-up
    "init_std": 0.2,
    "tie_word_embeddings": False,
    "is_decoder": True,
    "attn_logit_softcapping": 20.0,
}
# Latent attention: one head of positions, that all share.
_LATENT = {"num_key_value_heads": 4, "head_dim": 8}
_HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
_WINDOWED = {"use_sliding_window": True, "max_window_layers": 1}
_TEXT = {
    **{"vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2},
    **{"max_position_embeddings": 256, "eos_token_id": None, "pad_token_id": 0},
}
_VISION = {
    **{"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "image_size": 56, "patch_size": 14},
}
# What a class needs beside, or in place of it.
OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32"), _LATENT),
    **dict.fromkeys(
        ("glm4_moe_lite", "glm_moe_dsa", "minicpm3", "youtu", "dots3_note_text"), _LATENT
    ),
    **dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next", "olmo_hybrid"), _HYBRID),
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), _WINDOWED),
    "bailing_hybrid": _LATENT | _HYBRID,
    "kimi_linear": _LATENT | _HYBRID | {"linear_head_dim": 16, "linear_num_heads": 2},
    "longcat_flash": {"num_key_value_heads": 4, "head_dim": 8, "zero_expert_num": 2},
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "nemotron_h": {"layers_block_type": ["mamba", "attention", "moe"], "n_groups": 1},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "zamba": {"layers_block_type": ["mamba", "hybrid"], "mamba_dt_rank": 8},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"]},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 4, "head_dim": 32, "n_groups": 1},
    "codegen": {"rotary_dim": 8},
    "gptj": {"rotary_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "zaya": {"num_experts_per_tok": 1},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4}
            for kind in ("sliding_attention", "full_attention")
        },
    },
    "fuyu": {"text_config": _TEXT | {"model_type": "persimmon"}, "image_size": 60},
    "got_ocr2": {"text_config": _TEXT | {"model_type": "qwen2"}},
    "gemma3": {"vision_config": _VISION | {"model_type": "siglip_vision_model"}},
    "gemma4_assistant": {
        "text_config": _TEXT
        | {"model_type": "gemma4_text"}
        | {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
    },
    "qwen4_exp_text": _HYBRID
    | {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16}
    | {"indexer_budget": 8, "indexer_compress_ratio": 2, "ple_embed_dim": 16}
    | {"hc_lowrank": 8, "ngram_vocab_size_base": 64, "split_ngram_parts": 1},
    "xlstm": {"qk_dim_factor": 1.0},
    "mllama": {"num_hidden_layers": 3, "cross_attention_layers": [1]},
    "modernbert-decoder": {"local_attention": 2 * WINDOW},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "reformer": {"axial_pos_embds_dim": [32, 32], "axial_pos_shape": [8, 32]},
    "roc_bert": {"shape_vocab_size": 128, "pronunciation_vocab_size": 128},
    "musicgen": {"num_codebooks": 1},
    "musicgen_melody": {"num_codebooks": 1},
}


def architectures() -> list[str]:
    """Return the model types of all decoders, one for each class."""
    found: dict[str, str] = {}
    for model_type, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        config_class = model_class(model_type).config_class
        if name not in found or getattr(config_class, "model_type", None) == model_type:
            found[name] = model_type
    return list(found.values())


def tiny_config(model_type: str) -> Any:
    """Return the smallest configuration that still has all kinds of layers."""
    config_class = model_class(model_type).config_class or CONFIG_MAPPING[model_type]
    return _small(config_class, OWN.get(model_type, {}))


def model_class(model_type: str) -> Any:
    """Return the class that generates text."""
    return getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type])


def tiny_model(model_type: str, implementation: str) -> Any:
    """Return a model with random weights: the same at each call."""
    config = tiny_config(model_type)
    config._attn_implementation = implementation
    torch.manual_seed(0)
    model = model_class(model_type)(config).eval()
    parameters = sum(each.numel() for each in model.parameters())
    assert parameters < MAX_PARAMETERS, f"{parameters:,} parameters"
    return model


def _small(config_class: Any, own: dict[str, Any]) -> Any:
    fields = {each.name for each in dataclasses.fields(config_class)}
    given = {name: value for name, value in SMALL.items() if name in fields}
    for name, part in config_class.sub_configs.items():
        if dataclasses.is_dataclass(part):
            given[name] = _small(part, own.get(name, {}))
    given |= {name: value for name, value in own.items() if name not in given or name in SMALL}
    return config_class(**given)
