"""Whole models to try a deployment in: of names, files and folders."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="needs transformers: pip install '.[hf]'")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import LlamaConfig

    from tests.variants.test_hf import TINY, tiny
    from variants import hf
    from variants.deploy.rest_of_model import attention_layers, counting_cache, only_the_rest
    from variants.deploy.whole_model import build_model, layers_that_fit, model_config

from tests.variants.test_hf import deployment
from variants.models import MODELS, ModelError, read_model

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _offline_and_quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [n for n in MODELS if "alibi" not in MODELS[n].layers])
def test_a_name_has_the_attention_of_the_registry(name: str, tmp_path: Path) -> None:
    model_config(name, 64).to_json_file(tmp_path / "config.json")
    shape, read = MODELS[name], read_model(str(tmp_path / "config.json"))
    for field in ("q_heads", "kv_heads", "head_dim", "hidden_size", "layers"):
        assert getattr(read, field) == getattr(shape, field)


def test_what_transformers_has_no_model_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="mpt-7b has alibi"):
        model_config("mpt-7b", 64)
    (tmp_path / "config.json").write_text('{"model_type": "no such"}')
    with pytest.raises(ModelError, match="is not a configuration that transformers knows"):
        model_config(str(tmp_path / "config.json"), 64)


def test_weights_of_a_folder_are_taken_and_layers_are_left_out(tmp_path: Path) -> None:
    saved = tiny("llama")
    saved.save_pretrained(tmp_path)
    built = build_model(str(tmp_path), torch.float32, CPU, 1, 64)
    assert (built.layers, built.layers_named, built.random) == (1, 2, False)
    ours, theirs = built.model.state_dict(), saved.state_dict()
    assert ours.keys() < theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert built.model.generation_config.eos_token_id is None


def test_layers_fit_as_memory_allows(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    LlamaConfig(**(TINY | {"num_hidden_layers": 40})).to_json_file(path)

    def fitting(free: int) -> int:
        return layers_that_fit(str(path), torch.float32, 1, 32, free)

    assert (fitting(0), fitting(2**40)) == (1, 40)
    # q, k, v, o, three of the MLP and two norms, and keys and values of 32 tokens, twice.
    a_layer = 4 * (64 * (256 + 64 + 64 + 256) + 3 * 64 * 96 + 2 * 64) + 2 * 2 * 4 * 32 * 64
    some = 10 * a_layer
    assert fitting(some + 7 * a_layer) - fitting(some) == 7


@pytest.mark.parametrize("kind", ["llama", "gemma2", "mistral"])
@pytest.mark.parametrize("captured", [False, True])
def test_the_rest_computes_no_attention_and_gives_the_model_back(
    kind: str, captured: bool
) -> None:
    words = "math fp32 static" if kind != "gemma2" else "eager fp32 static"
    loaded = deployment(kind, words)
    model = tiny(kind, hf.register(loaded))
    ids = torch.randint(2, 128, (2, 24))
    given: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "do_sample": False}
    given |= {"max_new_tokens": 6}
    calls: list[int] = []
    attend = loaded.attention.attend
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = model.generate(ids, **given)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        loaded.attention.attend = lambda *a, **k: calls.append(1) or attend(*a, **k)  # type: ignore
        with only_the_rest(model):
            assert len(attention_layers(model)) == 2
            if captured:
                with hf.capture_decoding(model, loaded, capacity=40):
                    out = model.generate(ids, **given)
            else:
                cache = counting_cache(model)
                out = model.generate(ids, past_key_values=cache, **given)
                assert cache.get_seq_length() == 24 + 5
        assert out.shape == (2, 30)
        assert calls == []
        hf.register(loaded)  # with the counted attention, to see that it is back
        after = model.generate(ids, **given)
    assert calls
    assert torch.equal(before, after)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
