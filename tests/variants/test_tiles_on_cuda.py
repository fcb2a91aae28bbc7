"""What only a CUDA device can show of the tiles of flex; see test_tiles.py."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

from objectives.metrics.accuracy import largest_error
from objectives.metrics.kernels import kernels_of_step
from objectives.schema.evaluation import Outcome
from objectives.schema.limits import Limits
from objectives.trial.evaluator import Evaluator
from objectives.trial.outcomes import first_line, outcome_of_error
from tests.configurations import configured
from tests.variants.test_tiles import H100, MANY_ROWS, NAMED, ONE_ROW, SEED, chosen, with_tiles
from variants.backends import backend_that_ran
from variants.backends.flex import FlexAttention
from variants.backends.flex_tiles import FLASH_TILES, SHARED_MEMORY, TILES
from variants.configuration import Configuration
from variants.deploy.deployment import Deployment
from variants.deploy.dispatched_attention import DispatchedAttention
from variants.deploy.model_choice import ModelChoice
from variants.detect import detect_device
from variants.device import Device
from variants.layer.reference import reference_results
from variants.layer.run import Run
from variants.support import unsupported_reasons
from variants.workload import Phase, Workload


def here() -> Device:
    return detect_device("cuda", failed_quantizations={})


SHAPES: Mapping[str, tuple[Any, ...]] = {
    "head_dim": (64, 96, 128, 256),
    "kv_heads": (1, 2, 4, 8),
    "precision": ("bf16", "fp16", "fp32", "tf32"),
    "score_mod": ("none", "alibi", "softcap:2", "sliding_window:30", "document:20"),
    "seq_len": (33, 150, 277),
    "gqa": ("native", "repeat_kv"),
}
STEPS: Mapping[str, tuple[Any, ...]] = {
    "cache": ("static", "concat", "paged"),
    "execution": ("eager", "cuda_graph", "compiled"),
    "kv_dtype": ("same", "int8", "fp8"),
}
PROMPTS: Mapping[str, tuple[Any, ...]] = {
    "phase": ("prefill", "train"),
    "execution": ("eager", "compiled"),
}


def covered() -> Iterator[Configuration]:
    """Yield configurations in which all tiles meet each choice that an H100 can run them with.

    Of some at random, the one with the most that tiles have not met yet.
    """
    chance = random.Random(SEED)
    for tiles in NAMED:
        factors = SHAPES | (STEPS if tiles.name in ONE_ROW else PROMPTS)
        possible: list[tuple[set[tuple[str, Any]], Configuration]] = []
        for _ in range(150):
            row = {name: chance.choice(known) for name, known in factors.items()}
            of = with_tiles(tiles.name, **{"batch": 2, "q_heads": 8} | row)
            if not unsupported_reasons(of, H100):
                possible.append((set(row.items()), of))
        missing = set().union(*(met for met, _ in possible))
        while missing:
            met, of = max(possible, key=lambda one: len(one[0] & missing))
            missing -= met
            yield of


def test_all_tiles_are_covered() -> None:
    found = list(covered())
    assert {chosen(of.variant) for of in found} == {tiles.name for tiles in NAMED}
    assert {of.workload.phase for of in found} == set(Phase)
    assert {of.workload.head_dim for of in found} == set(SHAPES["head_dim"])
    assert 80 < len(found) < 160


def error_of(of: Configuration) -> float:
    torch._dynamo.reset()
    run = Run(of, torch.device("cuda"), SEED)
    steps = [
        {name: tensor.cpu() for name, tensor in run.results(run.step(index)).items()}
        for index in range(run.steps)
    ]
    results = {name: torch.cat([step[name] for step in steps], dim=1) for name in steps[0]}
    reference = reference_results(of.workload, torch.device("cuda"), SEED)
    return largest_error(results, dict(reference))


def same_by_default(of: Configuration) -> Configuration:
    variant = of.variant.model_copy(update={"tiles": "default"})
    return of.model_copy(update={"variant": variant})


@pytest.mark.cuda
@pytest.mark.parametrize("of", list(covered()), ids=lambda of: of.key)
def test_tiles_agree_with_the_reference(of: Configuration) -> None:
    missing = unsupported_reasons(of, here())
    if missing:
        pytest.skip("; ".join(missing))
    if lacks := shared_memory_lacked(of):
        # On other devices than Hopper's it is not known ahead what fits.
        assert (here().capability or (0, 0))[0] not in SHARED_MEMORY, lacks
        pytest.skip(lacks)
    assert error_of(of) <= 1.5 * error_of(same_by_default(of)) + 1e-6


def shared_memory_lacked(of: Configuration) -> str:
    """What the device has too little of for a first step; empty where it runs."""
    torch._dynamo.reset()
    run = Run(of, torch.device("cuda"), SEED)
    try:
        run.step(0)
    except RuntimeError as error:
        reason = first_line(error)
        if outcome_of_error(error) is Outcome.REFUSED and reason.startswith("the kernel needs"):
            return reason[:90]
        raise
    return ""


def code_of(of: Configuration) -> str:
    from torch._inductor.utils import run_and_get_code

    run = Run(of, torch.device("cuda"), SEED)
    with torch._inductor.config.patch(force_disable_caches=True):
        _, codes = run_and_get_code(run.step, 0)
    return "\n".join(codes)


@pytest.mark.cuda
@pytest.mark.parametrize("name", [n for n in (*ONE_ROW, *MANY_ROWS) if n != "flash"])
def test_the_compiled_kernel_is_the_named_one(name: str) -> None:
    of = with_tiles(name, head_dim=64, seq_len=300)
    if missing := unsupported_reasons(of, here()):
        pytest.skip("; ".join(missing))
    code = code_of(of)
    for option, value in (TILES.registry[name].options or {}).items():
        option = option.removeprefix("fwd_")
        if option.startswith("num_"):
            assert f"{option}={value}" in code
        elif option == "BACKEND":
            assert ("SPLIT_KV" in code) == (value == "TRITON_DECODE")
        elif option == "USE_TMA":
            assert "tl.make_tensor_descriptor" in code
        else:
            assert f"{option} : tl.constexpr = {value}" in code


@pytest.mark.cuda
@pytest.mark.parametrize("execution", ["eager", "cuda_graph"])
def test_flash_runs_its_own_kernel(execution: str) -> None:
    of = with_tiles("flash", head_dim=128, seq_len=512, score_mod="softcap:50")
    if missing := unsupported_reasons(of, here()):
        pytest.skip("; ".join(missing))
    of = configured(of.workload, "flex bf16", tiles="flash", execution=execution)
    found = Evaluator(here(), Limits(sampling_s=0.1), seed=0).evaluate(of)
    kernels = found.measurements.kernels if found.measurements else ()
    assert (found.outcome, found.reason) == (Outcome.MEASURED, ""), kernels
    assert any(re.search(FLASH_TILES.kernel or "", kernel) for kernel in kernels)
    assert not any(kernel.startswith("triton_tem") for kernel in kernels)


@pytest.mark.cuda
def test_what_does_not_fit_into_shared_memory_is_refused() -> None:
    of = with_tiles("n128w4s3", "fp32", head_dim=256)
    found = Evaluator(here(), Limits(sampling_s=0.1), seed=0).evaluate(of)
    assert found.outcome is Outcome.REFUSED
    assert found.reason.startswith("the kernel needs")


@pytest.mark.cuda
@pytest.mark.parametrize("seq_len", [20, 33, 100, 127, 128])
@pytest.mark.parametrize("tiles", ["default", "m64n64w4s3", "m128n128w8s2tma", "flash"])
def test_short_prompts_of_grouped_heads(seq_len: int, tiles: str) -> None:
    of = with_tiles("m64n64w4s3", q_heads=32, kv_heads=4, seq_len=seq_len)
    of = configured(of.workload, "flex bf16", tiles=tiles)
    if missing := unsupported_reasons(of, here()):
        pytest.skip("; ".join(missing))
    assert error_of(of) < 1e-2


@pytest.mark.cuda
@pytest.mark.parametrize("prefill", ["m64n64w4s3", "m128n128w8s2tma", "flash"])
@pytest.mark.parametrize("padded", [False, True])
def test_a_loaded_model_runs_its_tiles(prefill: str, padded: bool) -> None:
    measured = [with_tiles("n64w2s3", kv_heads=8), with_tiles(prefill, kv_heads=8)]
    if missing := [why for of in measured for why in unsupported_reasons(of, here())]:
        pytest.skip("; ".join(missing))
    attention = DispatchedAttention(measured, ModelChoice.of(measured[0].variant), here())
    chance = torch.Generator("cuda").manual_seed(SEED)
    query, key, value = torch.randn(
        3, 2, 8, 200, 64, generator=chance, device="cuda", dtype=torch.bfloat16
    )
    seen = torch.ones(200, 200, dtype=torch.bool, device="cuda").tril().expand(2, 1, -1, -1)
    if padded:
        seen = seen.clone()
        seen[0, :, :, :30] = False
        seen[0, :, :30, 0] = True  # a row of padding sees something
    for rows in (200, 1):
        last = query[:, :, -rows:]
        mask = seen[:, :, -rows:] if padded else None
        found = attention(last, key, value, mask=mask)
        expected = torch.nn.functional.scaled_dot_product_attention(
            last.float(), key.float(), value.float(), attn_mask=seen[:, :, -rows:]
        )
        error = (found.float() - expected).norm() / expected.norm()
        assert error < 1e-2


@pytest.mark.cuda
def test_kernels_of_a_captured_step_are_seen() -> None:
    run = Run(with_tiles("n64w2s3", execution="cuda_graph"), torch.device("cuda"), SEED)
    assert backend_that_ran(kernels_of_step(run), "cuda", "flex") == "flex"


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore")
def test_captured_decoding_runs_its_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="needs transformers: pip install '.[hf]'")
    from tests.variants.deploy.test_captured_decoding import CAPACITY, answer, prompts
    from tests.variants.test_hf import SHAPE, tiny
    from variants import hf

    told = []
    options = FlexAttention._kernel_options

    def noted(flex: FlexAttention, rows: int) -> Mapping[str, Any] | None:
        told.append((rows == 1, flex._tiles.name))
        return options(flex, rows)

    monkeypatch.setattr(FlexAttention, "_kernel_options", noted)
    measured = []
    for phase, tiles in (("decode", "n64w2s3"), ("prefill", "m64n64w4s3")):
        workload = Workload.model_validate(
            SHAPE | {"phase": phase, "seq_len": 24, "new_tokens": 16}
        )
        measured.append(configured(workload, "flex fp32 static", tiles=tiles))
    loaded = Deployment(measured, ModelChoice.of(measured[0].variant), here(), "0123abcd")
    model = tiny("llama", hf.register(loaded)).to("cuda", loaded.dtype)
    hf.capture_decoding(model, loaded, capacity=CAPACITY)
    inputs = {name: given.cuda() for name, given in prompts().items()}
    expected = answer(tiny("llama").cuda(), inputs)
    assert torch.equal(answer(model, inputs), expected)
    assert set(told) == {(True, "n64w2s3"), (False, "m64n64w4s3")}
