"""Every decoder of the installed transformers: the outputs of its eager attention, or a refusal.

A dozen of them in a usual run, all with `--everything`.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", reason="needs transformers: pip install '.[hf]'")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import AttentionInterface, DynamicCache
    from transformers.cache_utils import DynamicLayer, LinearAttentionLayer
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    from tests.variants.tiny_decoders import WINDOW, architectures, tiny_config, tiny_model
    from variants import hf
    from variants.hf import attention_interface

from tests.configurations import configured
from variants.deploy.deployment import Deployment
from variants.deploy.model_choice import ModelChoice
from variants.detect import detect_device
from variants.workload import Workload

HERE = detect_device("cpu")
PROMPT, TOKENS = 24, 12  # twice the window that the models have, and once
SAMPLE = (
    *(
        "llama",
        "mllama",
        "gemma2",
        "mistral",
        "qwen2_moe",
        "moshi",
        "diffllama",
        "jetmoe",
        "phimoe",
    ),
    *("jamba", "lfm2", "qwen3_next", "falcon_h1", "deepseek_v3", "bloom", "gptj", "mamba"),
)
OURS = str(Path(hf.__file__).parents[1])
_OWN = "does not ask for its attention by name (transformers' AttentionInterface)"
_NONE = "holds no attention that could be goldilocks_"
_NARROW = "value must have 4 heads of 24, which were measured; got 4 of 16"
_OTHER_KIND = "layers must be of full, sliding or linear attention, got one with"
_WIDE = "query must have 4 heads of 16, which were measured; got 4 of 512"
# What is refused, and how that reads: by architecture.
REFUSED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("bloom", "codegen", "xglm", "falcon", "gptj", "gpt_neo", "mpt"), (_OWN,)),
    **dict.fromkeys(("big_bird", "cpmant", "git", "got_ocr2", "gpt_neox_japanese"), (_OWN,)),
    **dict.fromkeys(("megatron-bert", "mvp", "openai-gpt", "prophetnet", "reformer"), (_OWN,)),
    **dict.fromkeys(("rembert", "roformer", "rwkv", "trocr", "xlm", "xlnet"), (_OWN,)),
    **dict.fromkeys(("mamba", "mamba2", "falcon_mamba", "xlstm"), (_NONE,)),
    **dict.fromkeys(("axk1", "bailing_hybrid", "deepseek_v2", "deepseek_v3"), (_NARROW,)),
    **dict.fromkeys(("glm4_moe_lite", "kimi_linear", "longcat_flash"), (_NARROW,)),
    **dict.fromkeys(("minicpm3", "youtu"), (_NARROW,)),
    **dict.fromkeys(
        ("axk2", "deepseek_v32", "dots3_note_text", "glm_moe_dsa", "hy_v4"),
        ("attention takes no indices", _OTHER_KIND),
    ),
    **dict.fromkeys(("flint", "gpt_oss", "granite_swa"), ("attention takes no s_aux",)),
    **dict.fromkeys(("granitemoe_swa", "mimo_v2_flash"), ("attention takes no s_aux",)),
    "deepseek_v4": ("attention takes no s_aux", _OTHER_KIND),
    **dict.fromkeys(("gemma4", "gemma4_text", "gemma4_unified_text"), (_WIDE,)),
    **dict.fromkeys(("inkling_text", "inkling2_text"), ("attention takes no position_bias",)),
    "bigbird_pegasus": ("attention must be causal, got BigBirdPegasusDecoderAttention",),
    "doge": ("mask must hold booleans for 24 keys, got torch.float32",),
}
# Of our cache alone.
CACHE_REFUSED = {
    "qwen4_exp_text": (_OTHER_KIND,),
    "minimax": (_THEIRS := "MiniMax uses cache of its own and is not compatible",),
}
# What transformers does not run by itself, or not of a size for tests, and how that ends.
LEFT_OUT = {
    "blt": "parameters",
    "dbrx": "'DbrxAttentionConfig' object has no attribute 'rope_theta'",
    "gemma3n": "requires the PIL library",
    "gemma4_assistant": "layer types producing a cache is different",
    "gemma4_unified": "parameters",
    "gemma4_unified_assistant": "layer types producing a cache is different",
    "moss_transcribe_diarize": "parameters",
    "musicgen": "unsupported operand type(s) for *: 'Tensor' and 'NoneType'",
    "musicgen_melody": "unsupported operand type(s) for *: 'Tensor' and 'NoneType'",
}
# Whose masks show all tokens; a cache of transformers' that is made of the configuration keeps a
# window of them.
ONLY_A_NUMBER = ("moshi",)


class Refusal(Exception):
    """One of our own lines."""


class LeftOut(Exception):
    """Without us it does not run either."""


@pytest.fixture(autouse=True)
def _quiet_and_offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


def inputs(padded: bool) -> dict[str, Tensor]:
    ids = torch.randint(2, 100, (2, PROMPT), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, :7] = 0
        ids[0, :7] = 0
    return {"input_ids": ids, "attention_mask": mask}


def outputs(model: Any, **given: Any) -> tuple[list[Tensor], Tensor]:
    """Logits without and with padding, and tokens that are generated behind the padding."""
    with torch.no_grad():
        logits = [
            model(**inputs(padded)).logits[inputs(padded)["attention_mask"].bool()]
            for padded in (False, True)
        ]
    tokens = model.generate(**inputs(True), do_sample=False, max_new_tokens=TOKENS, **given)
    return logits, tokens


def expected_of(model_type: str, own_cache: bool = False) -> tuple[list[Tensor], Tensor]:
    keeps_all = own_cache and model_type in ONLY_A_NUMBER
    given = {"past_key_values": DynamicCache()} if keeps_all else {}
    try:
        logits, tokens = outputs(tiny_model(model_type, "eager"), **given)
    except Exception as error:
        raise LeftOut(f"{type(error).__name__}: {error}") from error
    if not all(bool(each.isfinite().all()) for each in logits):
        raise LeftOut("its logits are not finite")
    return logits, tokens


def deployment_for(model_type: str) -> Deployment:
    """Return one for the shapes and score_mods with which a model calls its attention."""
    calls: list[tuple[Tensor, Tensor, str]] = []

    def seen(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **given: Any) -> Any:
        cap, window = given.get("softcap"), given.get("sliding_window")
        parts = [] if cap is None else [f"softcap:{cap:.0f}"]
        parts += [] if window is None else [f"sliding_window:{window}"]
        calls.append((query, key, "+".join(parts) or "none"))
        batch, heads, rows, _ = query.shape
        return torch.zeros(batch, rows, heads, value.shape[3]), None

    AttentionInterface.register("seen", seen)
    AttentionMaskInterface.register("seen", sdpa_mask)
    try:
        with torch.no_grad():
            tiny_model(model_type, "seen")(**inputs(True))
    except (ValueError, KeyError, AttributeError, TypeError):
        assert not calls  # it keeps its own attention, and ours is to refuse it
    query, key, _ = calls[0] if calls else (torch.zeros(2, 4, 1, 16), torch.zeros(2, 2, 1, 16), "")
    shape = {"batch": 2, "q_heads": query.shape[1], "kv_heads": key.shape[1]}
    found = []
    for score_mod in dict.fromkeys(call[2] for call in calls) or ["none"]:
        for phase in ("decode", "prefill"):
            workload = Workload.model_validate(
                shape
                | {"head_dim": query.shape[3], "phase": phase, "seq_len": PROMPT}
                | {"score_mod": score_mod, "new_tokens": TOKENS}
            )
            found.append(configured(workload, "eager fp32 static"))
    name = model_type.translate({ord(each): None for each in "_-"}).replace("flash", "f")
    return Deployment(found, ModelChoice.of(found[0].variant), HERE, name.replace("flex", "x"))


def ours(model_type: str, loaded: Deployment, own_cache: bool) -> tuple[list[Tensor], Tensor]:
    try:
        model = tiny_model(model_type, hf.register(loaded))
        given = {}
        if own_cache:
            cache = hf.past_key_values(loaded, model.config, capacity=PROMPT + TOKENS)
            given = {"past_key_values": cache}
        return outputs(model, **given)
    except (ValueError, TypeError, NotImplementedError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1].filename
        if where.startswith(OURS) or _THEIRS in str(error):
            raise Refusal(str(error)) from error
        raise


def same(got: tuple[list[Tensor], Tensor], wanted: tuple[list[Tensor], Tensor]) -> bool:
    near = (
        float((one - other).abs().max()) < 1e-4 * float(other.abs().max())
        for one, other in zip(got[0], wanted[0], strict=True)
    )
    return all(near) and torch.equal(got[1], wanted[1])


@pytest.mark.parametrize("model_type", architectures())
def test_the_same_as_eager_or_a_clear_refusal(
    model_type: str, request: pytest.FixtureRequest
) -> None:
    if model_type not in SAMPLE and not request.config.getoption("--everything"):
        pytest.skip("runs with --everything")
    if model_type in LEFT_OUT:
        with pytest.raises(LeftOut) as left_out:
            expected_of(model_type)
        assert LEFT_OUT[model_type] in str(left_out.value)
        return
    loaded = deployment_for(model_type)
    for own_cache in (False, True):
        refused = REFUSED.get(model_type) or (own_cache and CACHE_REFUSED.get(model_type))
        if refused:
            with pytest.raises(Refusal) as refusal:
                ours(model_type, loaded, own_cache)
            assert any(each in str(refusal.value) for each in refused), str(refusal.value)
        else:
            wanted = expected_of(model_type, own_cache)
            assert same(ours(model_type, loaded, own_cache), wanted)


def test_the_sample_is_of_the_installed_release() -> None:
    assert set(SAMPLE) - set(architectures()) == set()


def test_a_cache_of_8_bits_behind_which_keys_are_changed_is_refused() -> None:
    """JetMoe repeats keys and values for its experts after the cache."""
    workload = Workload.model_validate(
        {"batch": 2, "q_heads": 4, "kv_heads": 4, "head_dim": 16, "seq_len": PROMPT}
    )
    of = configured(workload, "math fp32 static", kv_dtype="int8")
    loaded = Deployment([of], ModelChoice.of(of.variant), HERE, "int8")
    with pytest.raises(
        Refusal, match=r"^repeat of keys or values that a cache keeps in its own way"
    ):
        ours("jetmoe", loaded, own_cache=True)


@pytest.mark.parametrize("model_type", ["jamba", "lfm2", "nemotron_h", "qwen3_next", "falcon_h1"])
def test_layers_without_keys_keep_what_transformers_gives_them(model_type: str) -> None:
    """Also where a configuration has a sliding_window that none of them uses."""
    config = tiny_config(model_type)
    config.sliding_window = WINDOW
    workload = Workload.model_validate(
        {"batch": 2, "q_heads": 4, "kv_heads": 2, "head_dim": 16, "seq_len": PROMPT}
    )
    of = configured(workload, "eager fp32 static")
    loaded = Deployment([of], ModelChoice.of(of.variant), HERE, "beside")
    theirs = DynamicCache(config=config).layers
    ours = hf.past_key_values(loaded, config, capacity=PROMPT).layers
    for one, other in zip(ours, theirs, strict=True):
        keeps_keys = isinstance(other, DynamicLayer)
        assert isinstance(one, attention_interface._CacheLayer) == keeps_keys
        assert isinstance(one, LinearAttentionLayer) == isinstance(other, LinearAttentionLayer)
