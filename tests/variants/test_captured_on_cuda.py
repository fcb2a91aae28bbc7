"""`hf.capture_decoding` with graphs: what is replayed against what is launched one by one."""

from __future__ import annotations

import copy
import gc
import warnings
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="needs transformers: pip install '.[hf]'")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tests.variants.deploy.test_captured_decoding import (
        CAPACITY,
        answer,
        count_steps,
        prompts,
    )
    from tests.variants.test_hf import deployment, tiny
    from variants import hf

from variants.deploy.deployment import Deployment
from variants.detect import detect_device

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("ignore")]


def on_cuda(kind: str, words: str, **choices: str) -> tuple[Any, Any]:
    found = deployment(kind, words, **choices)
    loaded = Deployment(found.configurations, found.model, detect_device("cuda"), "0123abcd")
    model = tiny(kind, hf.register(loaded)).to("cuda", loaded.dtype)
    return model, hf.capture_decoding(model, loaded, capacity=CAPACITY)


CUDA = [
    ("llama", "math fp32 static"),
    ("llama", "efficient fp32 static"),
    ("llama", "flex fp32 static"),
    ("gemma2", "eager fp32 static"),
    ("gemma2", "flex fp32 static"),
    ("mistral", "math fp32 static"),
    ("mistral", "flex fp32 static"),
]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("kind", "words"), CUDA)
def test_replayed_tokens_are_those_of_eager(
    kind: str, words: str, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("variants.deploy.key_range.SHORTEST_RANGE", 16)
    inputs = {name: given.cuda() for name, given in prompts(padded=padded).items()}
    expected = answer(tiny(kind).cuda(), inputs)
    choices = {"gqa": "repeat_kv"} if words.startswith("efficient") else {}
    model, handle = on_cuda(kind, words, **choices)
    steps = count_steps(model, handle)
    for _ in range(2):  # captured, and replayed only
        assert torch.equal(answer(model, inputs), expected)
    assert handle.ranges == {2: (32, 48, 64, 80, 88)}
    assert len(steps) == 3 * 5  # two to warm up and one to capture, a range


@pytest.mark.parametrize("kv_dtype", ["same", "int8", "fp8"])
def test_replays_in_half_precision_are_near_kernels_launched_one_by_one(kv_dtype: str) -> None:
    inputs = {name: given.cuda() for name, given in prompts().items()}
    words = "flex bf16 static" if kv_dtype == "fp8" else "cudnn bf16 static"
    choices = {"kv_dtype": kv_dtype, "execution": "cuda_graph"}
    model, handle = on_cuda("llama", words, **choices)
    given = {"output_logits": True, "return_dict_in_generate": True}
    found = answer(model, inputs, 8, **given)
    cache = copy.deepcopy(found.past_key_values)
    with torch.no_grad():
        token = found.sequences[:, -1:]
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 8), value=1)
        replayed = model(token, attention_mask=mask, past_key_values=found.past_key_values).logits
        handle.remove()
        launched = model(token, attention_mask=mask, past_key_values=cache).logits
    assert handle.ranges
    assert float((replayed - launched).norm() / launched.norm()) < 2e-2


def test_memory_is_that_of_one_cache() -> None:
    model, handle = on_cuda("llama", "math fp32 static")
    inputs = {name: given.cuda() for name, given in prompts(8).items()}
    answer(model, inputs)
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for batch in (8, 3, 1, 8):
        given = {name: one.cuda() for name, one in prompts(batch).items()}
        answer(model, given, 20)
    gc.collect()
    torch.cuda.synchronize()
    grown = torch.cuda.memory_allocated() - before
    planes = sum(
        plane.nbytes for own in handle._sets._free[0]._full.buffers for plane in own.planes
    )
    assert grown < planes / 8  # scales of a state, inputs and outputs of graphs
    handle.remove()
    gc.collect()
    assert torch.cuda.memory_allocated() < before - planes / 2
