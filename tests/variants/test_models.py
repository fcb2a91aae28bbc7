"""Shapes of public architectures, and the same read from configuration files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.variants.published_files import (
    BLOOM,
    COMMAND_R7B,
    FALCON_40B,
    GEMMA_2_9B,
    GEMMA_3_4B,
    GPT2,
    LFM_2,
    LLAMA_3_1_8B,
    MINIMAX_01,
    MISTRAL,
    MPT,
    MPT_GROUPED,
    NEMOTRON_H_8B,
    QWEN_2_5_7B,
    QWEN_3_8B,
    RECURRENT_GEMMA_2B,
)
from variants.models import MODELS, ModelError, model_from_config, read_model
from variants.registry import UnknownChoiceError
from variants.workload import Workload

CASES = json.loads(Path(__file__).with_name("model_configs.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (LLAMA_3_1_8B, "llama-3.1-8b"),
        (GPT2, "gpt2"),
        (BLOOM, "bloom-7b1"),
        (MPT, "mpt-7b"),
        (GEMMA_2_9B, "gemma-2-9b"),
        (MISTRAL, "mistral-7b-v0.1"),
        (QWEN_2_5_7B, "qwen2.5-7b"),
        (QWEN_3_8B, "qwen3-8b"),
    ],
)
def test_a_published_configuration_is_the_model_of_that_name(
    config: dict[str, object], name: str
) -> None:
    assert model_from_config(config, name) == MODELS[name]


def numbers(config: dict[str, Any]) -> dict[str, object]:
    model = model_from_config(config, "m")
    return {
        "q_heads": model.q_heads,
        "kv_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "hidden_size": model.hidden_size,
        "layers": dict(model.layers),
    }


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_public_model_has_its_numbers_or_is_refused(case: dict[str, Any]) -> None:
    if case["right"] == "refuse":
        with pytest.raises(ModelError, match=f"model_type {case['config']['model_type']} cannot"):
            numbers(case["config"])
    else:
        assert numbers(case["config"]) == case["right"]


@pytest.mark.parametrize(
    ("config", "shape", "layers"),
    [
        (GEMMA_3_4B, (8, 4, 256, 2560), {"sliding_window:1024": 29, "none": 5}),
        (FALCON_40B, (128, 8, 64, 8192), {"none": 60}),
        (NEMOTRON_H_8B, (32, 8, 128, 4096), {"none": 4}),
        (MINIMAX_01, (64, 8, 128, 6144), {"none": 10}),
        (RECURRENT_GEMMA_2B, (10, 1, 256, 2560), {"sliding_window:2048": 8}),
        (COMMAND_R7B, (32, 8, 128, 4096), {"sliding_window:4096": 24, "none": 8}),
        (LFM_2, (32, 8, 64, 2048), {"none": 6}),
        (MPT_GROUPED, (32, 8, 128, 4096), {"none": 32}),
    ],
)
def test_fields_mean_what_their_family_makes_of_them(
    config: dict[str, Any], shape: tuple[int, ...], layers: dict[str, int]
) -> None:
    found = numbers(config)
    assert found.pop("layers") == layers
    assert tuple(found.values()) == shape


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_a_workload(name: str) -> None:
    model = MODELS[name]
    for score_mod in model.layers:
        axes = model.axes((score_mod,))
        fields = {axis: choices[0] for axis, choices in axes.items()}
        of = Workload.model_validate({**fields, "seq_len": 8192})
        assert (of.score_mod, of.layers) == (score_mod, model.layers[score_mod])
        assert of.hidden_size == model.hidden_size


def test_layers_of_two_kinds_are_searched_each_as_many_as_there_are() -> None:
    assert MODELS["gemma-2-9b"].axes()["layers"] == (21,)
    assert len(MODELS["gemma-2-9b"].axes()["score_mod"]) == 2
    uneven = model_from_config(GEMMA_2_9B | {"num_hidden_layers": 3}, "m")
    with pytest.raises(ModelError, match="must pick one kind of the layers of m"):
        uneven.axes()
    assert uneven.axes(("softcap:50",))["layers"] == (1,)
    with pytest.raises(ModelError, match=r"score_mod of m must be one of .*; got alibi"):
        uneven.axes(("alibi",))


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (LLAMA_3_1_8B, {"hidden_size": None}, "hidden_size must be a positive integer, got null"),
        (LLAMA_3_1_8B, {"num_attention_heads": "32"}, "num_attention_heads must be a positive"),
        (LLAMA_3_1_8B, {"num_attention_heads": True}, "num_attention_heads must be a positive"),
        (LLAMA_3_1_8B, {"num_key_value_heads": 5}, "must divide num_attention_heads 32, got 5"),
        (LLAMA_3_1_8B, {"hidden_size": 4097}, "must be a multiple of num_attention_heads 32"),
        (LLAMA_3_1_8B, {"num_hidden_layers": 2**31 - 1}, "num_hidden_layers must be at most"),
        (LLAMA_3_1_8B, {"is_causal": False}, "is_causal must be true"),
        (LLAMA_3_1_8B, {"position_embedding_type": "alibi"}, "position_embedding_type must be"),
        (LLAMA_3_1_8B, {"layer_types": ["full_attention"]}, "must have 32 entries, got 1"),
        (LLAMA_3_1_8B, {"layer_types": ["sliding_attention"] * 32}, "layer_types contradicts"),
        (LLAMA_3_1_8B, {"layer_types": ["nonsense"] * 32}, "must be among .*; got nonsense"),
        (LLAMA_3_1_8B, {"layer_types": 7}, "layer_types must be a list of names, got 7"),
        (GPT2, {"num_attention_heads": 16}, "n_head 12 contradicts num_attention_heads 16"),
        (GPT2, {"add_cross_attention": True}, "add_cross_attention must be false"),
        (GPT2, {"num_key_value_heads": 4}, "num_key_value_heads must be the number of heads"),
        (GEMMA_2_9B, {"head_dim": None}, "head_dim must be a positive integer, got null"),
        (GEMMA_2_9B, {"attn_logit_softcapping": "50"}, "must be a positive whole number here"),
        (GEMMA_2_9B, {"attn_logit_softcapping": 0.5}, "attn_logit_softcapping must be"),
        (GEMMA_2_9B, {"sliding_window_size": 1}, "contradicts sliding_window_size 1"),
        (GEMMA_2_9B, {"sliding_window": None, "sliding_window_size": None}, "window, but"),
        (GEMMA_2_9B, {"use_bidirectional_attention": True}, "use_bidirectional_attention must"),
        (MISTRAL, {"sliding_window": -1}, "sliding_window must be a positive integer, got -1"),
        (MISTRAL, {"layer_types": ["full_attention"] * 32}, "layer_types contradicts"),
        (
            QWEN_2_5_7B,
            {"layer_types": ["sliding_attention"] * 28},
            "layers have a window, but sliding_window is off",
        ),
        (
            QWEN_2_5_7B,
            {"layer_types": ["chunked_attention"] * 28},
            "must be among full_attention, sliding_attention; got chunked_attention",
        ),
        (
            QWEN_2_5_7B,
            {"model_type": "qwen2_moe", "use_sliding_window": True},
            "use_sliding_window must be false without layer_types",
        ),
        (QWEN_2_5_7B, {"use_sliding_window": True, "max_window_layers": "x"}, "max_window_layers"),
        (FALCON_40B, {"alibi": True}, "alibi must be false"),
        (FALCON_40B, {"n_head_kv": 8}, "n_head_kv may change attention"),
        (MPT, {"attn_config": {"prefix_lm": True}}, "attn_config.prefix_lm must be false"),
        (MPT, {"attn_config": {"alibi_bias_max": 4}}, "attn_config.alibi_bias_max must be 8"),
        (MPT, {"attn_config": {"kv_n_heads": 8}}, "kv_n_heads 8 contradicts attn_type multihead"),
        (MPT, {"attn_config": 3}, "attn_config must be an object, got 3"),
        (COMMAND_R7B, {"order_of_interleaved_layers": "other"}, "order_of_interleaved_layers"),
        (COMMAND_R7B, {"layer_switch": 2}, "sliding_window_pattern 4 contradicts layer_switch 2"),
        (COMMAND_R7B, {"head_dim": 64}, "head_dim must be hidden_size 4096 / num_attention"),
        (NEMOTRON_H_8B, {"hybrid_override_pattern": "M-*"}, "must have 52 layers"),
        (NEMOTRON_H_8B, {"hybrid_override_pattern": "?"}, "must be among M, E, -, .*; got ?"),
        (NEMOTRON_H_8B, {"hybrid_override_pattern": None}, "hybrid_override_pattern must be"),
        (MINIMAX_01, {"attn_type_list": [2] * 80}, "attn_type_list must be among 0, 1; got 2"),
        (MINIMAX_01, {"attn_type_list": [0] * 80}, "at least one must attend, got none"),
        (MINIMAX_01, {"attn_type_list": None}, "layer_types must be there"),
        (LFM_2, {"full_attn_idxs": [16]}, "must be a list of layers from 0 to 15"),
        (LFM_2, {"full_attn_idxs": [1, 1]}, "full_attn_idxs must name each layer once"),
        (RECURRENT_GEMMA_2B, {"_block_types": []}, "must name the same layers"),
    ],
)
def test_what_cannot_be_said_names_its_field(
    config: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    numbers(config)
    with pytest.raises(ModelError, match=message) as error:
        numbers(config | change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kv_lora_rank", 512),
        ("attention_chunk_size", 8192),
        ("sliding_window", 4096),
        ("num_kv_shared_layers", 15),
        ("add_swa_attention_sink_bias", True),
        ("num_attention_heads_per_layer", [8]),
        ("use_cla", True),
        ("n_heads", 16),
        ("index_topk", 2048),
        ("per_layer_config", {"05": {"head_dim": 512}}),
        ("attn_logit_softcapping", 50.0),
        ("alibi", True),
        ("mamba_d_state", 16),
        ("text_config", {"num_attention_heads": 8}),
    ],
)
def test_a_field_of_attention_that_the_family_does_not_read_is_refused(
    field: str, value: object
) -> None:
    with pytest.raises(ModelError, match=f"m: {field} may change attention"):
        numbers(LLAMA_3_1_8B | {field: value})
    assert numbers(LLAMA_3_1_8B | {field: None}) == numbers(LLAMA_3_1_8B)


def test_fields_that_cost_attention_nothing_are_passed_over() -> None:
    others = {
        "_attn_implementation": "sdpa",
        "attention_bias": True,
        "attention_multiplier": 0.0078,
        "final_logit_softcapping": 30.0,
        "first_k_dense_replace": 1,
        "initializer_range": 0.02,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "moe_layer_freq": 1,
        "num_experts_per_tok": 8,
        "num_nextn_predict_layers": 1,
        "partial_rotary_factor": 0.5,
        "pretraining_tp": 1,
        "qk_layernorm": True,
        "quantization_config": {"bits": 4},
        "rope_scaling": {"factor": 8.0, "rope_type": "llama3"},
        "tie_word_embeddings": False,
        "vision_config": {"num_attention_heads": 16},
    }
    assert numbers(LLAMA_3_1_8B | others) == numbers(LLAMA_3_1_8B)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_attention_heads": 8}, "model_type must be there, which says what the fields mean"),
        ({"model_type": 3}, "model_type must be there"),
        ({"model_type": "bert"}, "model_type bert cannot be expressed: an encoder"),
        ({"model_type": "deepseek_v3"}, "model_type deepseek_v3 cannot be .* latent"),
        (
            {"model_type": "novel", "text_config": LLAMA_3_1_8B},
            r"got novel \(text_config holds a llama: give that object as a file of its own\)",
        ),
        ({"model_type": "llava"}, "text_config must be there in a file of llava"),
        (
            {"model_type": "llava", "text_config": {"model_type": "gpt_oss"}},
            "text_config.model_type gpt_oss cannot be expressed: attention sinks",
        ),
        (
            {"model_type": "llava", "hidden_size": 1, "text_config": LLAMA_3_1_8B},
            "hidden_size 1 contradicts text_config.hidden_size 4096",
        ),
        (
            {"model_type": "llava", "is_encoder_decoder": True, "text_config": LLAMA_3_1_8B},
            "is_encoder_decoder must be false",
        ),
    ],
)
def test_a_model_type_that_is_not_declared_is_refused_by_name(
    config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as error:
        numbers(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llava", "text_config": LLAMA_3_1_8B},
        {"model_type": "internvl_chat", "llm_config": LLAMA_3_1_8B},
        {"model_type": "multi_modality", "language_config": LLAMA_3_1_8B},
        {"model_type": "qwen3_omni_moe", "thinker_config": {"text_config": LLAMA_3_1_8B}},
    ],
)
def test_the_language_model_of_several_modalities_is_entered(config: dict[str, Any]) -> None:
    assert numbers(config) == numbers(LLAMA_3_1_8B)


def test_a_language_model_whose_fields_stood_at_the_top_first() -> None:
    flat = QWEN_2_5_7B | {"model_type": "qwen2_5_vl", "vision_config": {"depth": 32}}
    assert numbers(flat) == numbers(QWEN_2_5_7B)


def test_layer_types_are_counted() -> None:
    types = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    config = LLAMA_3_1_8B | {
        "model_type": "olmo3",
        "num_hidden_layers": 4,
        "sliding_window": 64,
        "layer_types": types,
    }
    assert model_from_config(config, "m").layers == {"sliding_window:64": 3, "none": 1}


def test_a_file_or_the_folder_that_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"text_config": LLAMA_3_1_8B, "model_type": "llava"}))
    for given_path in (path, tmp_path):
        assert read_model(str(given_path)).q_heads == 32
    path.write_text("[1]")
    with pytest.raises(ModelError, match="must be an object, got list"):
        read_model(str(path))
    for broken in ("{", f'{{"hidden_size": {"9" * 5000}}}'):
        path.write_text(broken)
        with pytest.raises(ModelError, match="must be a JSON file"):
            read_model(str(path))
    with pytest.raises(ModelError, match="must be a file that can be read"):
        read_model(str(tmp_path / "other.json"))
    with pytest.raises(UnknownChoiceError, match=r"model must be one of gpt2, .*; got lama"):
        read_model("lama")


BASES = (LLAMA_3_1_8B, GPT2, MPT, GEMMA_2_9B, QWEN_2_5_7B, NEMOTRON_H_8B, MINIMAX_01, LFM_2)
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)


@given(
    st.sampled_from(BASES),
    st.dictionaries(
        st.sampled_from(
            sorted({*(name for base in BASES for name in base), "layer_types", "text_config"})
        ),
        VALUES | st.lists(VALUES, max_size=3) | st.dictionaries(st.text(max_size=5), VALUES),
    ),
)
def test_any_document_is_a_model_or_a_model_error(
    base: dict[str, object], changes: dict[str, object]
) -> None:
    try:
        model = model_from_config(base | changes, "m")
    except ModelError:
        return
    assert sum(model.layers.values()) > 0
