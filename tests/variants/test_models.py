"""Shapes of public architectures, and the same read from configuration files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from variants.models import MODELS, ModelError, model_from_config, read_model
from variants.registry import UnknownChoiceError
from variants.workload import Workload

# As published, shortened to what has to do with attention and some of what has not.
LLAMA_3_1_8B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_dropout": 0.0,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rope_theta": 500000.0,
    "vocab_size": 128256,
}
GPT2 = {"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024}
BLOOM = {"model_type": "bloom", "hidden_size": 4096, "n_head": 32, "n_layer": 30}
MPT = {
    "model_type": "mpt",
    "d_model": 4096,
    "n_heads": 32,
    "n_layers": 32,
    "attn_config": {"alibi": True, "attn_impl": "torch"},
}
GEMMA_2_9B = {
    "model_type": "gemma2",
    "attn_logit_softcapping": 50.0,
    "head_dim": 256,
    "hidden_size": 3584,
    "num_attention_heads": 16,
    "num_hidden_layers": 42,
    "num_key_value_heads": 8,
    "sliding_window": 4096,
}
MISTRAL = LLAMA_3_1_8B | {"model_type": "mistral", "sliding_window": 4096}
QWEN_2_5_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "sliding_window": 131072,
    "use_sliding_window": False,
}


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
    ],
)
def test_a_published_configuration_is_the_model_of_that_name(
    config: dict[str, object], name: str
) -> None:
    assert model_from_config(config, name) == MODELS[name]


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
    ("change", "message"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"num_attention_heads": "32"}, "num_attention_heads must be a positive integer"),
        ({"num_attention_heads": True}, "num_attention_heads must be a positive integer"),
        ({"num_key_value_heads": 5}, "num_key_value_heads must divide num_attention_heads 32"),
        ({"hidden_size": 4097}, "must be a multiple of num_attention_heads 32"),
        ({"n_head": 16}, "n_head"),
        ({"kv_lora_rank": 512}, "kv_lora_rank has no counterpart here"),
        ({"attn_logit_softcapping": "50"}, "attn_logit_softcapping must be a positive number"),
        ({"attn_logit_softcapping": 0.5}, "attn_logit_softcapping must be"),
        ({"sliding_window": -1}, "sliding_window must be a positive integer"),
        ({"sliding_window": 8, "layer_types": ["full_attention"]}, "must have 32 entries"),
        (
            {"sliding_window": 8, "layer_types": ["chunked_attention"] * 32},
            "must be among sliding_attention, full_attention; got chunked_attention",
        ),
        ({"layer_types": ["sliding_attention"] * 32}, "sliding_window is off"),
    ],
)
def test_what_cannot_be_said_names_its_field(change: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        model_from_config(LLAMA_3_1_8B | change, "m")


def test_layer_types_are_counted() -> None:
    types = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    config = LLAMA_3_1_8B | {"num_hidden_layers": 4, "sliding_window": 64, "layer_types": types}
    assert model_from_config(config, "m").layers == {"sliding_window:64": 3, "none": 1}


def test_a_file_or_the_folder_that_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"text_config": LLAMA_3_1_8B, "model_type": "mllama"}))
    for given_path in (path, tmp_path):
        assert read_model(str(given_path)).q_heads == 32
    path.write_text("[1]")
    with pytest.raises(ModelError, match="must be an object, got list"):
        read_model(str(path))
    path.write_text("{")
    with pytest.raises(ModelError, match="must be a JSON file"):
        read_model(str(path))
    with pytest.raises(ModelError, match="must be a file that can be read"):
        read_model(str(tmp_path / "other.json"))
    with pytest.raises(UnknownChoiceError, match=r"model must be one of gpt2, .*; got lama"):
        read_model("lama")


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)


@given(
    st.dictionaries(
        st.sampled_from([*LLAMA_3_1_8B, *GPT2, *MPT, *GEMMA_2_9B, "layer_types", "text_config"]),
        VALUES | st.lists(VALUES, max_size=3) | st.dictionaries(st.text(max_size=5), VALUES),
    )
)
def test_any_document_is_a_model_or_a_model_error(changes: dict[str, object]) -> None:
    try:
        model = model_from_config(LLAMA_3_1_8B | changes, "m")
    except ModelError:
        return
    assert sum(model.layers.values()) > 0
