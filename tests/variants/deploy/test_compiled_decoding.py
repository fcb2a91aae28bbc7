"""`hf.capture_decoding(..., compiled=True)`: Inductor around one operator a layer, on a CPU."""

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
    from tests.variants.deploy.test_captured_decoding import CHOICES, answer, prompts
    from tests.variants.test_hf import KINDS, deployment, tiny
    from variants import hf

from variants.deploy.captured_step import CaptureWarning

pytestmark = pytest.mark.filterwarnings("ignore")
NEW = 20


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> CompileCounterWithBackend:
    """Counts what is compiled, and compiles it to the operations as they are."""
    counted = CompileCounterWithBackend("aot_eager")
    compile_ = torch.compile

    def quick(function: Any, **options: Any) -> Any:
        return compile_(function, backend=counted, **options)

    monkeypatch.setattr(torch, "compile", quick)
    return counted


def captured(kind: str, capacity: int = 90, **choices: str) -> tuple[Any, Any]:
    loaded = deployment(kind, CHOICES[kind], **choices)
    model = tiny(kind, hf.register(loaded))
    return model, hf.capture_decoding(model, loaded, capacity=capacity, compiled=True)


def same(kind: str, inputs: dict[str, Tensor]) -> None:
    model, handle = captured(kind)
    assert torch.equal(answer(model, inputs, NEW), answer(tiny(kind), inputs, NEW))
    assert handle.ranges == {len(inputs["input_ids"]): (90,)}
    assert model.config._attn_implementation == "goldilocks_0123abcd"


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", list(KINDS))
def test_generated_tokens_are_those_of_eager(
    kind: str, padded: bool, counter: CompileCounterWithBackend
) -> None:
    same(kind, prompts(padded=padded))
    assert counter.frame_count == 1


def test_generated_tokens_are_those_of_eager_by_inductor(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--everything"):
        pytest.skip("compiles for seconds; runs with --everything")
    same("llama", prompts())


def test_a_batch_is_compiled_once_for_all_lengths(
    counter: CompileCounterWithBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("variants.deploy.key_range.SHORTEST_RANGE", 16)
    model, handle = captured("llama")
    plain = tiny("llama")
    for batch, tokens in [(2, 24), (1, 33), (2, 9), (1, 24)]:
        inputs = prompts(batch, tokens)
        assert torch.equal(answer(model, inputs, 30), answer(plain, inputs, 30))
    assert handle.ranges == {1: (32, 48, 64), 2: (16, 32, 48, 64)}
    assert counter.frame_count == 2


@pytest.mark.usefixtures("counter")
@pytest.mark.parametrize("kv_dtype", ["int8", "fp8"])
def test_an_8_bit_cache_is_that_of_steps_that_are_not_compiled(kv_dtype: str) -> None:
    loaded = deployment("llama", CHOICES["llama"], kv_dtype=kv_dtype)
    model = tiny("llama", hf.register(loaded))
    tokens = []
    for compiled in (False, True):
        with hf.capture_decoding(model, loaded, capacity=90, compiled=compiled):
            tokens.append(answer(model, prompts(), NEW))
    assert torch.equal(*tokens)


def test_a_model_that_does_not_compile_as_a_whole_is_said(
    counter: CompileCounterWithBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = captured("llama")
    mlp = model.model.layers[0].mlp
    theirs = mlp.forward

    def breaking(hidden: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        out: Tensor = theirs(hidden)
        return out

    monkeypatch.setattr(mlp, "forward", breaking)
    with pytest.warns(CaptureWarning, match=r"cannot be compiled as a whole .* leave compiled="):
        found = answer(model, prompts(), 6)
    assert torch.equal(found, answer(tiny("llama"), prompts(), 6))
    assert counter.frame_count == 0
