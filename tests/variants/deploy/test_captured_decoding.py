"""`hf.capture_decoding`: the code of a captured step behind `generate`, run without a graph."""

from __future__ import annotations

import copy
import gc
import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", reason="needs transformers: pip install '.[hf]'")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tests.variants.test_hf import KINDS, deployment, tiny
    from variants import hf

from variants.deploy.captured_step import CaptureWarning

PROMPT, NEW = 24, 64
CAPACITY = PROMPT + NEW
CHOICES = {
    "llama": "math fp32 static",
    "gemma2": "eager fp32 static",
    "mistral": "flash fp32 static",
}


@pytest.fixture(autouse=True)
def _quiet_and_offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny products, and cores that others use
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


def prompts(batch: int = 2, tokens: int = PROMPT, padded: bool = True) -> dict[str, Tensor]:
    """Sequences of which the first is padded on the left."""
    ids = torch.randint(2, 128, (batch, tokens), generator=torch.Generator().manual_seed(batch))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, : tokens // 3] = 0
        ids[0, : tokens // 3] = 0
    return {"input_ids": ids, "attention_mask": mask}


def captured(kind: str, capacity: int = CAPACITY, **choices: str) -> tuple[Any, Any]:
    loaded = deployment(kind, CHOICES[kind], **choices)
    model = tiny(kind, hf.register(loaded))
    return model, hf.capture_decoding(model, loaded, capacity=capacity)


def answer(model: Any, inputs: dict[str, Tensor], tokens: int = NEW, **given: Any) -> Any:
    return model.generate(**inputs, **{"do_sample": False, "max_new_tokens": tokens} | given)


def count_steps(model: Any, handle: Any) -> list[int]:
    """Return a list that grows by the batch of each step that the captured code computes."""
    found: list[int] = []
    step = handle._step

    def counted(cache: Any, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        found.append(len(input_ids))
        out: Tensor = step(cache, input_ids, position_ids)
        return out

    handle._step = counted
    return found


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", list(KINDS))
def test_generated_tokens_are_those_of_eager(kind: str, padded: bool) -> None:
    """Past the window, and by the step's code alone but for the prompt."""
    inputs = prompts(padded=padded)
    expected = answer(tiny(kind), inputs)
    model, handle = captured(kind)
    steps = count_steps(model, handle)
    assert torch.equal(answer(model, inputs), expected)
    assert steps == [2] * (NEW - 1)
    assert handle.ranges == {2: (CAPACITY,)}


def test_steps_and_memory_are_kept_from_call_to_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches, lengths and padding that differ; ranges of lengths, and buffers that are reused."""
    monkeypatch.setattr("variants.deploy.key_range.SHORTEST_RANGE", 16)
    model, handle = captured("llama", capacity=90)
    plain = tiny("llama")
    planes = set()
    for batch, tokens, padded in [
        (2, 24, True),
        (3, 20, False),
        (2, 9, False),
        (1, 33, False),
    ] * 2:
        inputs = prompts(batch, tokens, padded)
        assert torch.equal(answer(model, inputs, 30), answer(plain, inputs, 30))
        (free,) = handle._sets._free
        planes.add(free._full.buffers[0].planes[0].data_ptr())
    assert len(planes) <= 2  # a batch of three needed more room than one of two
    assert handle.ranges == {
        1: (48, 64),
        2: (16, 32, 48, 64),
        3: (32, 48, 64),
    }


def test_a_step_attends_to_its_range_only() -> None:
    model, handle = captured("llama", capacity=5000)
    answer(model, prompts(), 4)
    assert handle.ranges == {2: (256,)}


@pytest.mark.parametrize("kv_dtype", ["int8", "fp8"])
def test_an_8_bit_cache_is_that_of_kernels_launched_one_by_one(kv_dtype: str) -> None:
    inputs = prompts()
    model, handle = captured("llama", kv_dtype=kv_dtype)
    found = answer(model, inputs, output_logits=True, return_dict_in_generate=True)
    handle.remove()
    cache = hf.past_key_values(
        deployment("llama", CHOICES["llama"], kv_dtype=kv_dtype), model.config, CAPACITY
    )
    expected = answer(
        model, inputs, past_key_values=cache, output_logits=True, return_dict_in_generate=True
    )
    assert torch.equal(found.sequences, expected.sequences)
    for one, other in zip(found.logits, expected.logits, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_sampling_processors_and_streamers_work_as_ever() -> None:
    inputs = prompts(1, padded=False)

    class Streamer:
        def __init__(self) -> None:
            self.seen: list[Tensor] = []

        def put(self, tokens: Tensor) -> None:
            self.seen.append(tokens.flatten())

        def end(self) -> None:
            pass

    def sampled(model: Any) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        torch.manual_seed(3)
        streamer = Streamer()
        out = answer(
            model,
            inputs,
            do_sample=True,
            top_k=20,
            temperature=0.7,
            repetition_penalty=1.3,
            min_new_tokens=10,
            eos_token_id=list(range(2, 12)),
            output_scores=True,
            return_dict_in_generate=True,
            streamer=streamer,
        )
        return out.sequences, torch.cat(streamer.seen), out.scores

    expected, streamed, scores = sampled(tiny("llama"))
    found, also_streamed, our_scores = sampled(captured("llama")[0])
    assert torch.equal(found, expected)
    assert torch.equal(streamed, also_streamed)
    for one, other in zip(our_scores, scores, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "given", [{"num_beams": 3}, {"num_return_sequences": 3, "do_sample": True}]
)
def test_beams_and_several_answers(given: dict[str, Any]) -> None:
    inputs = prompts(2)

    def of(model: Any) -> Tensor:
        torch.manual_seed(0)
        out: Tensor = answer(model, inputs, 20, **given)
        return out

    model, handle = captured("llama")
    steps = count_steps(model, handle)
    assert torch.equal(of(model), of(tiny("llama")))
    assert set(steps) == {6}


def test_prompts_in_chunks_of_one_token_and_in_inference_mode() -> None:
    """Buffers that inference mode has made are written to outside of it."""
    model, handle = captured("llama")
    plain = tiny("llama")
    with torch.inference_mode():
        inputs = prompts(2)
        assert torch.equal(answer(model, inputs, 4), answer(plain, inputs, 4))
    assert torch.equal(answer(model, inputs, 4), answer(plain, inputs, 4))
    chunked = answer(model, inputs, 8, prefill_chunk_size=10)
    assert torch.equal(chunked, answer(plain, inputs, 8))
    one = prompts(2, 1, padded=False)
    assert torch.equal(answer(model, one, 8), answer(plain, one, 8))
    assert len(handle._sets.steps()) == 1


def test_an_answer_can_be_continued_and_its_cache_copied() -> None:
    model, handle = captured("llama")
    plain = tiny("llama")
    inputs = prompts(2)
    first = answer(model, inputs, 10, return_dict_in_generate=True)
    follow = torch.cat([first.sequences, prompts(2, 5, padded=False)["input_ids"]], dim=1)
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, 15, dtype=torch.int64)], dim=1)
    again = {"input_ids": follow, "attention_mask": mask}
    copied = copy.deepcopy(first.past_key_values)
    # Another answer in between takes other memory: the first cache is still in use.
    assert torch.equal(answer(model, prompts(2), 10), first.sequences)
    expected = answer(plain, again, 12)
    for cache in (first.past_key_values, copied):
        steps = count_steps(model, handle)
        assert torch.equal(answer(model, again, 12, past_key_values=cache), expected)
        assert steps == []  # the step that there is was not made anew
    assert len(handle._sets.steps()) == 3
    del first, copied, cache
    gc.collect()
    assert len(handle._sets._free) == 3


def test_a_loop_of_ones_own() -> None:
    """Logits stay what they were, and gradients are said to be in the way."""
    model, handle = captured("llama")
    plain = tiny("llama")
    ids = prompts(2, padded=False)["input_ids"]
    cache, theirs = handle.cache(), None
    kept = []
    with torch.inference_mode():
        token = ids
        for _ in range(6):
            out = model(token, past_key_values=cache)
            same = plain(token, past_key_values=theirs)
            theirs = same.past_key_values
            kept.append((out.logits[:, -1], same.logits[:, -1]))
            token = same.logits[:, -1:].argmax(-1)
    token = token.clone()
    assert out.past_key_values is cache
    for one, expected in kept:
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-4)
    with pytest.warns(CaptureWarning, match="gradients are recorded"):
        out = model(token, past_key_values=cache)
    with torch.no_grad():
        same = plain(token, past_key_values=theirs)
    torch.testing.assert_close(out.logits, same.logits, rtol=1e-4, atol=1e-4)
    assert cache.get_seq_length() == PROMPT + 6


IN_THE_WAY = [
    ({"output_hidden_states": True, "return_dict_in_generate": True}, "output_hidden_states"),
    ({"prompt_lookup_num_tokens": 3}, "assisted generation takes back tokens"),
    ({"cache_implementation": "static", "disable_compile": True}, "cache_implementation static"),
    ({"max_new_tokens": 80}, "up to 103 tokens are asked for, and capacity is 88"),
]


@pytest.mark.parametrize(("given", "said"), IN_THE_WAY)
def test_what_cannot_be_captured_is_said_and_right(given: dict[str, Any], said: str) -> None:
    inputs = prompts(1, padded=False)
    given = {"max_new_tokens": 12} | given
    expected = answer(tiny("llama"), inputs, **given)
    model, _ = captured("llama")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", CaptureWarning)
        out = answer(model, inputs, **given)
        answer(model, inputs, **given)
    of = (lambda one: one.sequences) if "output_hidden_states" in given else (lambda one: one)
    assert torch.equal(of(out), of(expected))
    lines = [str(one.message) for one in found if one.category is CaptureWarning]
    assert len(lines) == 1
    assert said in lines[0]
    assert "\n" not in lines[0]


def test_a_model_that_is_in_the_way_itself() -> None:
    inputs = prompts(1, padded=False)
    model, handle = captured("llama")
    expected = answer(model, inputs, 8)
    steps = count_steps(model, handle)
    handle._sets._free.clear()  # so that a step is made of what is counted
    hook = model.model.layers[1].register_forward_hook(lambda *_: None)
    with pytest.warns(CaptureWarning, match=r"model\.layers\.1 has hooks"):
        assert torch.equal(answer(model, inputs, 8), expected)
    assert steps == []
    hook.remove()
    assert torch.equal(answer(model, inputs, 8), expected)
    assert steps == [1] * 7


def test_another_mask_than_ours_is_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of models that look at token types; here, one that is asked for it."""
    inputs = prompts(1, padded=False)
    expected = answer(tiny("llama"), inputs, 8)
    model, _ = captured("llama")
    before = model.model.forward

    def masked(*args: Any, **kwargs: Any) -> Any:
        past = kwargs["past_key_values"].get_seq_length()
        if isinstance(past, Tensor):
            kwargs["attention_mask"] = torch.ones(1, 1, 1, CAPACITY, dtype=torch.bool)
        return before(*args, **kwargs)

    monkeypatch.setattr(model.model, "forward", masked)
    with pytest.warns(CaptureWarning, match="a mask of its own"):
        assert torch.equal(answer(model, inputs, 8), expected)


def test_new_weights_are_noticed() -> None:
    model, handle = captured("llama")
    inputs = prompts(1, padded=False)
    answer(model, inputs, 4)
    (step,) = handle._sets.steps()
    assert step.ranges
    weight = model.model.layers[0].mlp.up_proj.weight
    weight.data = weight.data * 2
    plain = tiny("llama")
    plain.load_state_dict(model.state_dict())
    assert torch.equal(answer(model, inputs, 4), answer(plain, inputs, 4))
    assert not step.ranges


def test_it_leaves_the_model_as_it_was() -> None:
    loaded = deployment("llama", CHOICES["llama"])
    model = tiny("llama", hf.register(loaded))
    signature, before = inspect.signature(model.forward), set(vars(model))
    with hf.capture_decoding(model, loaded, capacity=40) as handle:
        assert inspect.signature(model.forward) == signature
        with pytest.raises(ValueError, match="captured already"):
            hf.capture_decoding(model, loaded, capacity=40)
        model.set_attn_implementation("sdpa")
        answer(model, prompts(), 4)
        assert handle.ranges == {}
    assert set(vars(model)) == before
    assert inspect.signature(model.forward) == signature
    with pytest.raises(
        ValueError, match="attention must be the deployment's, goldilocks_0123abcd"
    ):
        hf.capture_decoding(model, loaded, capacity=40)


def test_a_choice_that_no_step_can_hold_is_said() -> None:
    loaded = deployment("llama", "math fp32 concat")
    model = tiny("llama", hf.register(loaded))
    before = set(vars(model))
    with pytest.warns(CaptureWarning, match="needs cache static, got concat"):
        handle = hf.capture_decoding(model, loaded, capacity=40)
    assert not handle.active
    assert set(vars(model)) == before
    handle.remove()


def test_a_cpu_is_said_to_have_no_graphs() -> None:
    with pytest.warns(CaptureWarning, match="cpu has no CUDA graphs"):
        captured("llama")
