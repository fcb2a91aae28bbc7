"""Packages' kernels in steps at a position of the device: told how many keys there are."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.configurations import configured
from tests.variants.deploy.test_captured_step import (
    HEADS,
    NEW,
    PROMPT,
    decoder,
    deployment,
    empty,
    logits_of_steps,
    prompt,
)
from tests.variants.kernels.reference_kernels import CALLS
from variants.deploy.captured_step import CapturedStep
from variants.deploy.deployment import Deployment
from variants.deploy.dispatched_attention import DispatchWarning
from variants.deploy.model_choice import ModelChoice
from variants.deploy.targets import targets_of
from variants.detect import detect_device
from variants.workload import Workload

pytestmark = [
    pytest.mark.usefixtures("on_cpu"),
    pytest.mark.filterwarnings("ignore:.*tokens lie"),
]


def decoding(backend: str, prefill: str, score_mod: str = "none", **choices: str) -> Deployment:
    """Decode by one backend, and compute prompts by another."""
    found = [
        configured(
            Workload.model_validate(
                HEADS
                | {"phase": phase, "batch": 2, "seq_len": PROMPT, "new_tokens": NEW}
                | {"score_mod": score_mod}
            ),
            f"{name} bf16 static",
            **choices,
        )
        for phase, name in (("decode", backend), ("prefill", prefill))
    ]
    return Deployment(found, ModelChoice.of(found[0].variant), detect_device("cpu"), "0123abcd")


def near(found: Tensor, expected: Tensor, most: float = 0.02) -> bool:
    return float((found - expected).norm() / expected.norm()) < most


CASES: list[tuple[str, str, dict[str, str]]] = [
    ("fa3", "none", {}),
    ("fa3", "sliding_window:6", {}),
    ("fa3", "softcap:2", {}),
    ("fa3", "none", {"kv_dtype": "int8"}),
    ("fa3", "none", {"kv_dtype": "fp8"}),
    ("fa3", "sliding_window:6", {"gqa": "repeat_kv", "kv_dtype": "fp8"}),
    ("cudnn_graph", "none", {}),
    ("cudnn_graph", "none", {"kv_dtype": "fp8"}),
]


@pytest.mark.parametrize(("backend", "score_mod", "choices"), CASES)
def test_steps_are_those_of_a_backend_that_takes_a_mask(
    backend: str, score_mod: str, choices: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("variants.deploy.key_range.SHORTEST_RANGE", 8)
    prefill = "fa3" if backend == "fa3" else "math"
    loaded = decoding(backend, prefill, score_mod, **choices)
    plain = decoding("eager", "eager", score_mod, **choices)
    tokens = torch.cat([prompt(), prompt()], dim=1)
    CALLS.clear()
    found, expected = (
        logits_of_steps(decoder(one).bfloat16(), empty(one), tokens).float()
        for one in (loaded, plain)
    )
    assert near(found, expected, 0.04 if "fp8" in choices.values() else 0.02)
    counted = [c for c in CALLS if c.get("seqused_k", c.get("lengths")) is not None]
    assert len(counted) == PROMPT * 2  # layers


def test_the_layers_of_a_step_share_their_counts() -> None:
    loaded = decoding("fa3", "fa3")
    CALLS.clear()
    logits_of_steps(decoder(loaded).bfloat16(), empty(loaded), torch.cat([prompt()] * 2, dim=1))
    counts = [call["seqused_k"] for call in CALLS if call["seqused_k"] is not None]
    assert all(one is other for one, other in zip(counts[::2], counts[1::2], strict=True))
    assert [int(one[0]) for one in counts[::2]] == list(range(PROMPT + 1, 2 * PROMPT + 1))


def test_padding_is_hidden_by_another_backend_and_only_then() -> None:
    """A step that was made where nothing was padded does not serve a batch that is."""
    loaded, plain = decoding("fa3", "fa3"), decoding("eager", "eager")
    padded = torch.ones(2, PROMPT, dtype=torch.bool)
    padded[0, :4] = False
    tokens = prompt()[:, :1]

    def steps_of(one: Any, warns: bool) -> list[Tensor]:
        model, cache = decoder(one).bfloat16(), empty(one)
        step = CapturedStep(lambda token: model(token, cache), cache)
        found = []
        for mask in (None, padded, None):
            cache.clear()
            with torch.no_grad():
                model(prompt(), cache)
                cache.pad(mask)
                CALLS.clear()
                if warns and mask is not None:
                    with pytest.warns(DispatchWarning, match="fa3 takes no mask, and padding"):
                        found.append(step(tokens).float())
                else:
                    found.append(step(tokens).float())
            assert bool(CALLS) == (one is loaded and mask is None)
        return found

    for found, expected in zip(steps_of(loaded, True), steps_of(plain, False), strict=True):
        assert near(found, expected)


def test_one_plan_serves_a_range_of_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("variants.deploy.key_range.SHORTEST_RANGE", 16)
    loaded = decoding("cudnn_graph", "math")
    model = decoder(loaded).bfloat16()
    logits_of_steps(model, empty(loaded), torch.cat([prompt()] * 2, dim=1))
    built = sys.modules["cudnn"].BUILT
    before = len(built)
    logits_of_steps(model, empty(loaded), torch.cat([prompt()] * 2, dim=1))
    assert len(built) == before


@pytest.mark.parametrize("backend", ["fa3", "cudnn_graph"])
def test_a_decode_step_can_be_captured_in_transformers(backend: str) -> None:
    of = Workload.model_validate(HEADS | {"seq_len": PROMPT})
    chosen = configured(of, f"{backend} bf16 static", execution="cuda_graph")
    assert "transformers-captured" in targets_of(chosen, "cuda")


def test_a_deployment_of_one_backend_computes_prompts_and_steps() -> None:
    loaded = deployment("none", "fa3 bf16 static")
    CALLS.clear()
    logits_of_steps(decoder(loaded).bfloat16(), empty(loaded), torch.cat([prompt()] * 2, dim=1))
    first = CALLS[0]
    assert first["seqused_k"] is None
    assert first["q"].shape[1] == first["k"].shape[1] == PROMPT
