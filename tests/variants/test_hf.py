"""Deployments inside of transformers' models: tiny ones, randomly initialised, offline."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers", reason="needs transformers: pip install '.[hf]'")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import (
        AttentionInterface,
        BloomConfig,
        BloomForCausalLM,
        DiffLlamaConfig,
        DiffLlamaForCausalLM,
        FalconConfig,
        FalconForCausalLM,
        Gemma2Config,
        Gemma2ForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        MoshiConfig,
    )

    from variants import hf
    from variants.hf import attention_functions, attention_interface

from tests.configurations import configured
from variants.deploy.deployment import Deployment
from variants.deploy.model_choice import ModelChoice
from variants.detect import detect_device
from variants.workload import Workload

HERE = detect_device("cpu")
SHAPE = {"batch": 2, "q_heads": 8, "kv_heads": 2, "head_dim": 32}
TINY = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "initializer_range": 0.2,  # so that the next token is no toss-up
}
WINDOW = 12
KINDS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "gemma2": (
        Gemma2ForCausalLM,
        Gemma2Config,
        {
            "attn_logit_softcapping": 20.0,
            "query_pre_attn_scalar": 24,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": WINDOW}),
}
SCORE_MODS = {
    "llama": ("none",),
    "gemma2": (f"softcap:20+sliding_window:{WINDOW}", "softcap:20"),
    "mistral": (f"sliding_window:{WINDOW}",),
}


def tiny(kind: str, implementation: str = "eager") -> Any:
    of_class, of_config, own = KINDS[kind]
    torch.manual_seed(0)
    config = of_config(**(TINY | own))
    config._attn_implementation = implementation
    return of_class(config).eval()


def deployment(kind: str, words: str, name: str = "0123abcd", **choices: str) -> Deployment:
    found = []
    for score_mod in SCORE_MODS[kind]:
        for phase in ("decode", "prefill"):
            workload = Workload.model_validate(
                SHAPE | {"phase": phase, "seq_len": 24, "new_tokens": 16, "score_mod": score_mod}
            )
            found.append(configured(workload, words, **choices))
    return Deployment(found, ModelChoice.of(found[0].variant), HERE, name)


def prompt() -> dict[str, Tensor]:
    """Two sequences of 24 tokens, the first of them padded on the left."""
    ids = torch.randint(2, 128, (2, 24), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    ids[0, :7] = 0
    return {"input_ids": ids, "attention_mask": mask}


def generate(model: Any, inputs: dict[str, Tensor], tokens: int = 16, **given: Any) -> Tensor:
    out: Tensor = model.generate(**inputs, do_sample=False, max_new_tokens=tokens, **given)
    assert out.shape == (2, 24 + tokens)
    return out


@pytest.fixture(autouse=True)
def _quiet_and_offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny products, and cores that others use
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


LOGITS = [
    ("llama", "math fp32 static"),
    ("llama", "flash fp32 concat"),
    ("llama", "flex fp32 static"),
    ("gemma2", "eager fp32 static"),
    ("mistral", "flash fp32 static"),
    ("mistral", "eager fp32 ring"),
]


@pytest.mark.parametrize(("kind", "words"), LOGITS)
@pytest.mark.parametrize("padded", [False, True])
def test_logits_are_those_of_eager(
    kind: str, words: str, padded: bool, request: pytest.FixtureRequest
) -> None:
    if "flex" in words and not padded and not request.config.getoption("--everything"):
        pytest.skip("compiles for seconds; runs with --everything")
    inputs = prompt()
    if not padded:
        del inputs["attention_mask"]
    with torch.no_grad():
        expected = tiny(kind)(**inputs).logits
        model = tiny(kind)
        model.set_attn_implementation(hf.register(deployment(kind, words)))
        logits = model(**inputs).logits
    seen = inputs.get("attention_mask", torch.ones(2, 24)).bool()
    assert bool(torch.isfinite(logits).all())
    assert float((logits - expected)[seen].abs().max()) < 1e-4 * float(expected.abs().max())


GENERATED = [
    ("llama", "flash fp32 static", {}),
    ("llama", "math fp32 concat", {"gqa": "repeat_kv"}),
    ("llama", "flex fp32 paged", {}),
    ("gemma2", "eager fp32 static", {}),
    ("mistral", "eager fp32 static", {}),
    ("mistral", "math fp32 ring", {}),
]


@pytest.mark.parametrize(("kind", "words", "choices"), GENERATED)
def test_generated_tokens_are_those_of_eager(
    kind: str, words: str, choices: dict[str, str]
) -> None:
    """Greedy, in the same precision, past the window, with padding, by our cache and by theirs."""
    inputs = prompt()
    expected = generate(tiny(kind), inputs)
    loaded = deployment(kind, words, **choices)
    model = tiny(kind, hf.register(loaded))
    cache = hf.past_key_values(loaded, model.config, capacity=24 + 16)
    assert torch.equal(generate(model, inputs, past_key_values=cache), expected)
    assert cache.get_seq_length() == 24 + 15  # the last token was not fed back
    if "paged" not in words and "ring" not in words:
        assert torch.equal(generate(model, inputs), expected)


def test_a_static_cache_of_theirs_serves_too() -> None:
    inputs = prompt()
    expected = generate(tiny("llama"), inputs, tokens=8)
    model = tiny("llama", hf.register(deployment("llama", "flash fp32 static")))
    given = {"cache_implementation": "static", "disable_compile": True}
    assert torch.equal(generate(model, inputs, tokens=8, **given), expected)


def test_an_8_bit_cache_is_near() -> None:
    inputs = prompt()
    loaded = deployment("llama", "math fp32 static", kv_dtype="int8")
    model = tiny("llama", hf.register(loaded))
    cache = hf.past_key_values(loaded, model.config, capacity=40)
    with torch.no_grad():
        model(**inputs, past_key_values=cache)
        token = torch.full((2, 1), 5)
        mask = torch.cat([inputs["attention_mask"], torch.ones_like(token)], dim=1)
        step = model(input_ids=token, attention_mask=mask, past_key_values=cache).logits[:, -1]
        whole = torch.cat([inputs["input_ids"], token], dim=1)
        expected = tiny("llama")(input_ids=whole, attention_mask=mask).logits[:, -1]
    assert 1e-6 < float((step - expected).norm() / expected.norm()) < 3e-2


def test_a_cache_that_others_cannot_read_has_no_data_for_them() -> None:
    loaded = deployment("llama", "math fp32 static", kv_dtype="int8")
    model = tiny("llama", "sdpa")
    cache = hf.past_key_values(loaded, model.config, capacity=40)
    with torch.no_grad():
        model(**prompt(), past_key_values=cache)
        with pytest.raises(ValueError, match="was not called for the tokens before: the model"):
            model(input_ids=torch.full((2, 1), 5), past_key_values=cache)
        key, value = torch.zeros(2, 2, 2, 1, 32)
        attention_functions.last_call[loaded.name] = object()  # as if it had been
        key, value = cache.layers[0].update(key, value)
        assert key.shape == value.shape == (2, 2, 25, 32)
        assert key.dtype is torch.float32
        with pytest.raises(
            ValueError, match=r"^transpose of keys or values that a cache keeps in"
        ):
            torch.matmul(torch.zeros(2, 2, 1, 32), key.transpose(2, 3))


def test_what_it_cannot_do_raises() -> None:
    name = hf.register(deployment("llama", "math fp32 static"))
    model = tiny("llama", name)
    ids = prompt()["input_ids"]
    attention = model.model.layers[0].self_attn
    forward = AttentionInterface()[name]
    query, key = torch.zeros(2, 8, 4, 32), torch.zeros(2, 2, 4, 32)
    forward(attention, query, key, key, None, position_ids=ids, s_aux=None)
    for unknown in ("s_aux", "position_bias", "cu_seq_lens_q"):
        with pytest.raises(TypeError, match=f"attention takes no {unknown}"):
            forward(attention, query, key, key, None, **{unknown: torch.zeros(1)})
    with pytest.raises(TypeError, match="takes no output_attentions"):
        forward(attention, query, key, key, None, output_attentions=True)
    with pytest.raises(ValueError, match=r"dropout must be 0, got 0.1"):
        forward(attention, query, key, key, None, dropout=0.1)
    with pytest.raises(ValueError, match="attention must be causal"):
        forward(attention, query, key, key, None, is_causal=False)
    with pytest.raises(ValueError, match=r"softcap must be a whole number, got 1.5"):
        forward(attention, query, key, key, None, softcap=1.5)
    mistral = tiny("mistral", name)
    attention_interface._mask(
        config=mistral.config,
        local_size=WINDOW,
        batch_size=1,
        q_length=4,
        kv_length=4,
        device="cpu",
    )
    with pytest.raises(ValueError, match="does not tell its attention its sliding_window"):
        forward(mistral.model.layers[0].self_attn, query, key, key, None)
    with pytest.raises(ValueError, match="name must hold none of"):
        hf.register(deployment("llama", "math fp32 static", name="flash"))
    gemma = deployment("gemma2", "eager fp32 ring")
    with pytest.raises(ValueError, match="ring needs a layer with a sliding_window"):
        hf.past_key_values(gemma, tiny("gemma2").config, capacity=40)


def test_quantized_projections_in_a_model() -> None:
    loaded = deployment("llama", "math fp32 static", quantization="int8_weight_only")
    model = tiny("llama", hf.register(loaded))
    inputs = prompt()
    with torch.no_grad():
        expected = tiny("llama")(**inputs).logits
        assert loaded.quantize(model) == 2
        logits = model(**inputs).logits
    seen = inputs["attention_mask"].bool()
    assert 1e-4 < float((logits - expected)[seen].norm() / expected[seen].norm()) < 0.1


class OwnAttention(nn.Module):
    """As in a model of a user's own: it computes, and takes the mask alone from transformers."""


class OwnLlama(LlamaForCausalLM):  # type: ignore[misc]
    """Asks as its base does, but stands in a module that has an attention of its own."""


def test_a_class_that_keeps_its_own_attention_is_refused_when_it_is_loaded() -> None:
    name = hf.register(deployment("llama", "math fp32 static"))
    own = "does not ask for its attention by name"
    for of_class, of_config in (
        (BloomForCausalLM, BloomConfig),
        (FalconForCausalLM, FalconConfig),
        (OwnLlama, LlamaConfig),
    ):
        config = of_config(hidden_size=64, num_hidden_layers=1, num_attention_heads=4)
        config._attn_implementation = name
        with pytest.raises(ValueError, match=f"{of_class.__name__} {own}"):
            of_class(config)
        config._attn_implementation = "eager"
        model = of_class(config)
        for asked in (name, {"": name}):
            with pytest.raises(ValueError, match=f"{of_class.__name__} {own}"):
                model.set_attn_implementation(asked)
        assert model.config._attn_implementation == "eager"


def test_a_mask_is_never_made_for_an_attention_that_is_not_ours() -> None:
    """The name is put into a configuration behind the back of all checks."""
    name = hf.register(deployment("llama", "math fp32 static"))
    config = BloomConfig(hidden_size=64, n_layer=1, n_head=4, vocab_size=128)
    config._attn_implementation = "eager"
    model = BloomForCausalLM(config).eval()
    model.config._attn_implementation = name
    with pytest.raises(ValueError, match="the model of BloomConfig is not known to ask"):
        model(input_ids=torch.full((1, 4), 5))


def test_a_cache_says_that_the_attention_was_never_called() -> None:
    loaded = deployment("llama", "math fp32 static")
    hf.register(loaded)
    config = FalconConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=128
    )
    config._attn_implementation = "eager"
    model = FalconForCausalLM(config).eval()
    cache = hf.past_key_values(loaded, model.config, capacity=40)
    with pytest.raises(ValueError, match="attention of deployment 0123abcd was not called for"):
        model.generate(**prompt(), past_key_values=cache, max_new_tokens=4)


@pytest.mark.parametrize("kv_dtype", ["same", "int8"])
def test_values_that_a_model_changes_after_the_cache_count(kv_dtype: str) -> None:
    shape = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    workload = Workload.model_validate(
        {"batch": 2, "q_heads": 4, "kv_heads": 2, "head_dim": 16, "seq_len": 24, "new_tokens": 16}
    )
    of = configured(workload, "math fp32 static", kv_dtype=kv_dtype)
    loaded = Deployment([of], ModelChoice.of(of.variant), HERE, "diff")

    def model(implementation: str) -> Any:
        torch.manual_seed(0)
        config = DiffLlamaConfig(**(TINY | shape))
        config._attn_implementation = implementation
        return DiffLlamaForCausalLM(config).eval()

    expected = generate(model("eager"), prompt())
    ours = model(hf.register(loaded))
    cache = hf.past_key_values(loaded, ours.config, capacity=40)
    if kv_dtype == "int8":
        with pytest.raises(ValueError, match="chunk of keys or values that a cache keeps in its"):
            generate(ours, prompt(), past_key_values=cache)
    else:
        assert torch.equal(generate(ours, prompt(), past_key_values=cache), expected)


def test_tokens_are_not_taken_back() -> None:
    loaded = deployment("llama", "math fp32 static")
    model = tiny("llama", hf.register(loaded))
    cache = hf.past_key_values(loaded, model.config, capacity=60)
    one = {key: part[1:] for key, part in prompt().items()}
    with pytest.raises(
        ValueError, match=r"assisted generation .* is not supported with a deploym"
    ):
        model.generate(**one, past_key_values=cache, prompt_lookup_num_tokens=2, max_new_tokens=16)
    with pytest.raises(ValueError, match="takes no tokens back"):
        cache.crop(-1)


def test_a_layer_is_not_initialized_before_it_has_keys() -> None:
    loaded = deployment("llama", "math fp32 static")
    layer = hf.past_key_values(loaded, tiny("llama").config, capacity=60).layers[0]
    assert not layer.is_initialized
    layer.update(torch.ones(1, 2, 3, 32), torch.ones(1, 2, 3, 32))
    assert layer.is_initialized
    assert layer.keys.numel() > 0
    layer.reset()
    assert not layer.is_initialized


def test_a_window_that_is_only_a_number_is_none() -> None:
    loaded = deployment("mistral", "math fp32 ring")
    config = MoshiConfig(sliding_window=3000, num_hidden_layers=2)
    with pytest.raises(ValueError, match="ring needs a layer with a sliding_window"):
        hf.past_key_values(loaded, config, capacity=40)
    layers = hf.past_key_values(deployment("llama", "math fp32 static"), config, 40).layers
    assert [layer.sliding_window for layer in layers] == [None, None]
