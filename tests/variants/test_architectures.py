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
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    from tests.variants.tiny_models import architectures, tiny_model
    from variants import hf

from tests.configurations import configured
from variants.deployment import Deployment
from variants.detect import detect_device
from variants.model_choice import ModelChoice
from variants.workload import Workload

HERE = detect_device("cpu")
PROMPT, TOKENS = 24, 12  # twice the window that the models have, and once
SAMPLE = (
    *("llama", "gemma2", "mistral", "qwen2_moe", "moshi", "diffllama", "jetmoe", "phimoe"),
    *("jamba", "lfm2", "qwen3_next", "falcon_h1", "deepseek_v3", "bloom", "gptj", "mamba"),
)
OURS = str(Path(hf.__file__).parent)
# What ours says, by architecture.
REFUSED: dict[str, str] = {}
CACHE_REFUSED: dict[str, str] = {}
# What transformers itself does not run here, and how it ends.
LEFT_OUT: dict[str, str] = {}


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


def expected_of(model_type: str) -> tuple[list[Tensor], Tensor]:
    try:
        logits, tokens = outputs(tiny_model(model_type, "eager"))
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
        if traceback.extract_tb(error.__traceback__)[-1].filename.startswith(OURS):
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
    try:
        wanted = expected_of(model_type)
    except LeftOut as error:
        assert LEFT_OUT[model_type] in str(error)
        return
    loaded = deployment_for(model_type)
    for own_cache, refused in ((False, REFUSED), (True, REFUSED | CACHE_REFUSED)):
        try:
            got = ours(model_type, loaded, own_cache)
        except Refusal as error:
            assert model_type in refused, str(error)
            assert refused[model_type] in str(error)
        else:
            assert model_type not in refused
            assert same(got, wanted)
