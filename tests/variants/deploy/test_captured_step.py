"""Steps at a position of the device, of the decoder of plain modules in docs/own_decoder.py."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.configurations import configured
from variants.backends import BACKENDS, Takes
from variants.caches import CacheOverflowError
from variants.deploy.captured_step import CapturedStep, CaptureWarning
from variants.deploy.deployment import Deployment
from variants.deploy.dispatched_attention import DispatchWarning
from variants.deploy.key_range import SHORTEST_RANGE, key_range
from variants.deploy.model_cache import ModelCache
from variants.deploy.model_choice import ModelChoice
from variants.detect import detect_device
from variants.workload import Workload

# Lengths beyond the measured ones, which are none of what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:.*tokens lie")

HEADS = {"q_heads": 4, "kv_heads": 2, "head_dim": 32, "hidden_size": 48}
PROMPT, NEW = 11, 20


def _example() -> ModuleType:
    path = Path(__file__).parents[3] / "docs" / "own_decoder.py"
    spec = importlib.util.spec_from_file_location("own_decoder", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


own_decoder: Any = _example()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def deployment(score_mod: str, words: str, kind: str = "cpu", **choices: str) -> Deployment:
    found = [
        configured(
            Workload.model_validate(
                HEADS
                | {"phase": phase, "batch": 2, "seq_len": PROMPT, "new_tokens": NEW}
                | {"score_mod": score_mod}
            ),
            words,
            **choices,
        )
        for phase in ("decode", "prefill")
    ]
    here = detect_device("cuda" if kind == "cuda" else "cpu")
    return Deployment(found, ModelChoice.of(found[0].variant), here, "0123abcd")


def decoder(loaded: Deployment) -> Any:
    torch.manual_seed(0)
    made = own_decoder.Decoder(loaded, layers=2, vocabulary=64)
    for block in made.blocks:
        block.q_proj.weight.data *= 4  # so that what is seen matters
    return made.eval()


def prompt(batch: int = 2) -> Tensor:
    return torch.randint(64, (batch, PROMPT), generator=torch.Generator().manual_seed(7))


def empty(loaded: Deployment, capacity: int = PROMPT + NEW, batch: int = 2) -> ModelCache:
    return loaded.model_cache(layers=2, batch=batch, capacity=capacity)


@torch.no_grad()
def logits_of_steps(model: Any, cache: ModelCache, tokens: Tensor, start: int = PROMPT) -> Tensor:
    """Return the logits of all tokens behind the prompt, each computed by a step."""
    step = CapturedStep(lambda token: model(token, cache), cache)
    model(tokens[:, :start], cache)
    steps = [step(tokens[:, at : at + 1]) for at in range(start, tokens.shape[1])]
    return torch.cat(steps, dim=1)


@torch.no_grad()
def logits_at_once(model: Any, loaded: Deployment, tokens: Tensor) -> Tensor:
    """Return the same, computed as one prompt."""
    cache = empty(loaded, tokens.shape[1], len(tokens))
    return model(tokens, cache)[:, PROMPT:]


CASES = [
    ("none", "math fp32 static"),
    ("none", "flash fp32 static"),
    ("none", "eager fp32 static"),
    ("none", "flex fp32 static"),
    ("alibi", "flash fp32 static"),
    ("alibi+sliding_window:6", "eager fp32 static"),
    ("relative", "math fp32 static"),
    ("softcap:2+sliding_window:6", "eager fp32 static"),
    ("document:5", "math fp32 static"),
]


@pytest.mark.parametrize(("score_mod", "words"), CASES)
def test_steps_are_a_prompt_in_parts(
    score_mod: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every score_mod that looks at positions, over several ranges of lengths."""
    monkeypatch.setattr("variants.deploy.key_range.SHORTEST_RANGE", 8)
    loaded = deployment(score_mod, words)
    model = decoder(loaded)
    tokens = torch.cat([prompt(), prompt()], dim=1)
    expected = logits_at_once(decoder(deployment(score_mod, "eager fp32 static")), loaded, tokens)
    found = logits_of_steps(model, empty(loaded), tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_prompt_that_is_shorter_than_its_prefix() -> None:
    """A row sees what is ahead in its prefix, but not what is not there yet."""
    loaded = deployment(f"prefix_lm:{PROMPT}", "math fp32 static")
    model, tokens = decoder(loaded), prompt()
    with torch.no_grad():
        cache = empty(loaded)
        model(tokens[:, :4], cache)
        expected = [model(tokens[:, at : at + 1], cache) for at in range(4, PROMPT)]
    found = logits_of_steps(model, empty(loaded), tokens, start=4)
    torch.testing.assert_close(found, torch.cat(expected, dim=1), rtol=1e-4, atol=1e-4)


def test_padding_is_hidden_from_steps() -> None:
    loaded = deployment("none", "math fp32 static")
    model = decoder(loaded)
    tokens = torch.cat([prompt(), prompt()], dim=1)
    alone = logits_of_steps(model, empty(loaded), tokens)
    cache = empty(loaded)
    mask = torch.ones(2, PROMPT, dtype=torch.int64)
    mask[0, 3] = 0
    cache.pad(mask)
    padded = logits_of_steps(model, cache, tokens)
    assert torch.equal(padded[1], alone[1])
    assert not torch.allclose(padded[0], alone[0], atol=1e-3)
    cache.clear()
    assert torch.equal(logits_of_steps(model, cache, tokens), alone)


def test_the_example_answers_as_a_decoder_without_a_cache() -> None:
    loaded = deployment("none", "math fp32 static")
    model = decoder(loaded)
    answer = own_decoder.generate(model, loaded, prompt(), NEW)
    tokens = prompt()
    with torch.no_grad():
        for _ in range(NEW):
            logits = model(tokens, empty(loaded))
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(answer, tokens[:, PROMPT:])


def test_what_was_not_overwritten_counts_for_nothing() -> None:
    loaded = deployment("none", "math fp32 static")
    model = decoder(loaded)
    tokens = torch.cat([prompt(), prompt()], dim=1)
    cache = empty(loaded)
    expected = logits_of_steps(model, cache, tokens)
    for own in cache.buffers:
        for plane in own.planes:
            plane.fill_(torch.nan)
    cache.clear()
    assert torch.equal(logits_of_steps(model, cache, tokens), expected)


def test_it_refuses_what_it_has_no_room_or_no_prompt_for() -> None:
    loaded = deployment("none", "math fp32 static")
    model, cache = decoder(loaded), empty(loaded, capacity=PROMPT + 1)
    step = CapturedStep(lambda token: model(token, cache), cache)
    with pytest.raises(ValueError, match="the prompt comes before the first step"):
        step(prompt()[:, :1])
    with torch.no_grad():
        model(prompt(), cache)
        step(prompt()[:, :1])
        with pytest.raises(CacheOverflowError, match="room for 12 tokens and holds 12; 1 more"):
            step(prompt()[:, :1])
        cache.clear()
        with pytest.raises(ValueError, match="for a batch of 2, got one of 3"):
            model(prompt(3), cache)
        model(prompt(), cache)
        with pytest.raises(ValueError, match=r"inputs must keep shape and type, \(2, 1\)"):
            step(prompt()[:1, :1])
    with pytest.raises(ValueError, match=r"cache must be static, .* got ring"):
        deployment("sliding_window:6", "math fp32 ring").model_cache(layers=1, batch=1, capacity=8)


def test_a_backend_that_takes_no_mask_is_replaced_in_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    support = BACKENDS["flash"].support
    monkeypatch.setitem(
        support,
        "cpu",
        dataclasses.replace(support["cpu"], takes=Takes.PLAIN),  # as on CUDA
    )
    loaded = deployment("none", "flash fp32 static")
    model = decoder(loaded)
    with pytest.warns(DispatchWarning, match="flash takes no mask, and a mask hides what") as said:
        own_decoder.generate(model, loaded, prompt(), 4)
    (line,) = [str(one.message) for one in said if "takes no mask" in str(one.message)]
    assert line.endswith("reached: auto is used in captured steps")


@pytest.mark.parametrize("length", [1, 255, 256, 257, 4096, 4097, 5000, 8200, 32768, 131072])
def test_ranges_hold_their_lengths_and_little_more(length: int) -> None:
    end = key_range(length, 2**20)
    assert length <= end <= max(SHORTEST_RANGE, length + length / 16 + SHORTEST_RANGE)
    assert key_range(end, 2**20) == end
    assert key_range(end + 1, 2**20) > end
    assert key_range(length, length) == length


CUDA_CASES = [
    ("none", "math fp32 static", {}),
    ("none", "cudnn bf16 static", {"execution": "cuda_graph"}),
    ("none", "efficient bf16 static", {"gqa": "repeat_kv"}),
    ("none", "flex bf16 static", {"kv_dtype": "fp8"}),
    ("none", "cudnn bf16 static", {"kv_dtype": "int8"}),
    ("alibi", "flex fp32 static", {}),
    ("softcap:2+sliding_window:6", "flex bf16 static", {}),
    ("softcap:2+sliding_window:6", "eager fp32 static", {"execution": "compiled"}),
]


@pytest.mark.cuda
# Of the prompt, which no graph holds.
@pytest.mark.filterwarnings("ignore:execution cuda_graph captures a whole step")
@pytest.mark.parametrize(("score_mod", "words", "choices"), CUDA_CASES)
def test_a_replay_is_what_its_kernels_are(
    score_mod: str, words: str, choices: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits of replays against those of the same kernels launched one by one, over ranges."""
    monkeypatch.setattr("variants.deploy.key_range.SHORTEST_RANGE", 8)
    loaded = deployment(score_mod, words, "cuda", **choices)
    model = decoder(loaded).to("cuda", loaded.dtype)
    tokens = torch.cat([prompt(), prompt()], dim=1).cuda()
    found = logits_of_steps(model, empty(loaded), tokens)
    with torch.no_grad():
        cache = empty(loaded)
        model(tokens[:, :PROMPT], cache)
        expected = [model(tokens[:, at : at + 1], cache) for at in range(PROMPT, 2 * PROMPT)]
    error = (found - torch.cat(expected, dim=1)).norm() / found.norm()
    assert float(error) < (1e-4 if "fp32" in words else 2e-2)


@pytest.mark.cuda
def test_a_step_is_captured_once_a_range_and_its_logits_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("variants.deploy.key_range.SHORTEST_RANGE", 8)
    loaded = deployment("none", "math fp32 static", "cuda")
    model, cache, calls = decoder(loaded).cuda(), empty(loaded), []

    def counted(token: Tensor) -> Tensor:
        calls.append(cache.length)
        out: Tensor = model(token, cache)
        return out

    step, tokens = CapturedStep(counted, cache), prompt().cuda()
    with torch.no_grad():
        model(tokens, cache)
        kept = [step(tokens[:, at : at + 1]) for at in range(PROMPT)]
        copies = [one.clone() for one in kept]
        expected = len(calls)
        cache.clear()
        model(tokens, cache)
        again = [step(tokens[:, at : at + 1]) for at in range(PROMPT)]
    assert step.ranges == (16, 24)
    assert len(calls) == expected == 2 * 3  # two to warm up and one to capture
    for one, copy, other in zip(kept, copies, again, strict=True):
        assert torch.equal(one, copy)
        assert torch.equal(one, other)


@pytest.mark.cuda
def test_a_step_that_waits_for_the_device_is_said_and_right() -> None:
    loaded = deployment("none", "math fp32 static", "cuda")
    model, cache = decoder(loaded).cuda(), empty(loaded)
    tokens = torch.cat([prompt(), prompt()], dim=1).cuda()

    def waits(token: Tensor) -> Tensor:
        out: Tensor = model(token, cache)
        return out * (1 if bool((token >= 0).all()) else 0)

    step = CapturedStep(waits, cache)
    with torch.no_grad():
        model(tokens[:, :PROMPT], cache)
        with pytest.warns(CaptureWarning, match="synchroniz") as said:
            found = [step(tokens[:, at : at + 1]) for at in range(PROMPT, 2 * PROMPT)]
    assert len(said) == 1
    assert step.ranges == ()
    expected = logits_of_steps(model, empty(loaded), tokens)
    torch.testing.assert_close(torch.cat(found, dim=1), expected, rtol=1e-4, atol=1e-4)


def test_a_cache_does_not_keep_the_prompt_that_it_copied() -> None:
    loaded = deployment("none", "math fp32 static")
    cache = empty(loaded)
    workload = loaded.configurations[0].workload
    key = torch.randn(2, workload.kv_heads, PROMPT, workload.head_dim)
    value = torch.randn_like(key)
    cache[0].append(key, value)
    gc.collect()
    of_prompt = {part.untyped_storage().data_ptr() for part in (key, value)}
    sharing = [
        other
        for other in gc.get_objects()
        if type(other) is Tensor
        and other.device.type == "cpu"
        and other is not key
        and other is not value
        and other.untyped_storage().data_ptr() in of_prompt
    ]
    assert not sharing
