"""`torch.compile` of a user's own around a deployment's attention: tiny models, offline."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

pytest.importorskip("transformers", reason="needs transformers: pip install '.[hf]'")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import DynamicCache

    from tests.variants.test_hf import KINDS, _quiet_and_offline, deployment, prompt, tiny
    from variants import hf

__all__ = ["_quiet_and_offline"]

WORDS = {
    "llama": "flash fp32 static",
    "gemma2": "eager fp32 static",
    "mistral": "flash fp32 static",
}
STEPS = 3


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def ours(kind: str) -> Any:
    return tiny(kind, hf.register(deployment(kind, WORDS[kind])))


def given(padded: bool) -> dict[str, Tensor]:
    inputs = prompt()
    if not padded:
        del inputs["attention_mask"]
    return inputs


@torch.no_grad()
def logits(model: Any, config: Any, padded: bool) -> list[Tensor]:
    """Of the prompt without a cache, of the prompt with one, and of steps behind it."""
    inputs = given(padded)
    found = [model(**inputs, use_cache=False).logits]
    cache = DynamicCache(config=config)
    found.append(model(**inputs, past_key_values=cache).logits)
    token, mask = torch.full((2, 1), 5), inputs.get("attention_mask")
    for _ in range(STEPS):
        more = {}
        if mask is not None:
            mask = torch.cat([mask, torch.ones_like(token)], dim=1)
            more = {"attention_mask": mask}
        found.append(model(input_ids=token, past_key_values=cache, **more).logits)
    return found


def same(kind: str, padded: bool, backend: Any) -> None:
    model = ours(kind)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    found, expected = logits(compiled, model.config, padded), logits(model, model.config, padded)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_model_compiles_as_a_whole_and_computes_the_same(kind: str, padded: bool) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    same(kind, padded, counter)
    # Without a cache, behind an empty one, behind tokens; then once more, for all lengths.
    assert counter.frame_count <= 4


def test_a_model_compiles_as_a_whole_by_inductor(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--everything"):
        pytest.skip("compiles for seconds; runs with --everything")
    same("llama", True, "inductor")


def test_no_graph_breaks_are_counted() -> None:
    model = ours("llama")
    with torch.no_grad():
        explained = torch._dynamo.explain(model)(**prompt(), use_cache=False)
    assert explained.graph_break_count == 0
    assert explained.graph_count == 1


def test_gradients_are_those_of_a_model_that_is_not_compiled() -> None:
    """Attention is launched as ever then, between what is compiled."""
    inputs = prompt()
    model = ours("llama")
    weight = model.model.layers[0].self_attn.q_proj.weight
    compiled = torch.compile(model, backend="aot_eager")
    found = []
    for called in (compiled, model):
        called(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
        found.append(weight.grad.clone())
        model.zero_grad()
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)
    torch._dynamo.reset()
    whole = torch.compile(model, backend="aot_eager", fullgraph=True)
    with pytest.raises(RuntimeError, match="attention is not compiled where gradients are record"):
        whole(**inputs, use_cache=False)


def test_our_cache_stays_outside_of_what_is_compiled() -> None:
    inputs = prompt()
    loaded = deployment("llama", WORDS["llama"])
    model = tiny("llama", hf.register(loaded))
    expected = model.generate(**inputs, max_new_tokens=8, do_sample=False)[:, 24:]
    compiled = torch.compile(model, backend="eager")
    cache = hf.past_key_values(loaded, model.config, capacity=40)
    mask, found = inputs["attention_mask"], []
    with torch.no_grad():
        out = compiled(**inputs, past_key_values=cache)
        for _ in range(8):
            token = out.logits[:, -1:].argmax(-1)
            found.append(token)
            mask = torch.cat([mask, torch.ones_like(token)], dim=1)
            out = compiled(input_ids=token, attention_mask=mask, past_key_values=cache)
    assert torch.equal(torch.cat(found, dim=1), expected)
    torch._dynamo.reset()
    whole = torch.compile(model, backend="eager", fullgraph=True)
    cache = hf.past_key_values(loaded, model.config, capacity=40)
    with torch.no_grad(), pytest.raises(RuntimeError, match="deployment's cache is not compiled"):
        whole(**inputs, past_key_values=cache)
