"""What is expected before anything is measured: orders, not numbers."""

from __future__ import annotations

import pytest

from objectives.roofline.bound import bound
from objectives.roofline.prior import Prediction, predict
from tests.combinations import CORE, configure, product
from tests.configurations import configured
from variants.device import DEVICE_PROFILES
from variants.precisions import PRECISIONS
from variants.workload import Workload

H100 = DEVICE_PROFILES["h100"].device
DECODE = Workload(batch=8, seq_len=4096, q_heads=32, kv_heads=8, head_dim=128)
PREFILL = Workload.model_validate(DECODE.model_dump() | {"phase": "prefill"})


def expected(of: Workload, words: str, **choices: str) -> Prediction:
    return predict(configured(of, words, **choices), H100)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (expected(DECODE, "flash bf16 static"), expected(DECODE, "flash bf16 none")),
        (expected(DECODE, "cudnn bf16 static"), expected(DECODE, "cudnn bf16 concat")),
        (expected(PREFILL, "flash bf16"), expected(PREFILL, "math bf16")),
        (expected(DECODE, "math bf16 static"), expected(DECODE, "math fp32 static")),
        (
            expected(DECODE, "math bf16 static", gqa="native"),
            expected(DECODE, "math bf16 static", gqa="repeat_kv"),
        ),
    ],
)
def test_what_saves_both_is_expected_to(better: Prediction, worse: Prediction) -> None:
    assert better.latency_ms < worse.latency_ms
    assert better.memory_mib < worse.memory_mib


def test_a_graph_saves_launches() -> None:
    short = Workload(batch=1, seq_len=128)
    eager, graph = (
        expected(short, "math bf16 static", execution=execution)
        for execution in ("eager", "cuda_graph")
    )
    assert graph.latency_ms < eager.latency_ms


def test_keys_out_of_the_window_are_read_by_those_that_cannot_skip_them() -> None:
    windowed = DECODE.model_copy(update={"score_mod": "sliding_window:128"})
    skipping = expected(windowed, "flex bf16 static").latency_ms
    assert skipping < expected(windowed, "cudnn bf16 static").latency_ms
    assert skipping < expected(DECODE, "flex bf16 static").latency_ms


def test_layers_multiply_time_and_what_stays() -> None:
    one, four = (
        expected(DECODE.model_copy(update={"layers": layers}), "flash bf16 static")
        for layers in (1, 4)
    )
    assert four.latency_ms == pytest.approx(4 * one.latency_ms)
    assert 3.5 * one.memory_mib < four.memory_mib < 4 * one.memory_mib


@pytest.mark.parametrize("profile", DEVICE_PROFILES)
def test_nothing_is_expected_to_beat_the_roofline(profile: str) -> None:
    device = DEVICE_PROFILES[profile].device
    for factors in product(CORE):
        of = configure(factors, {"batch": 4, "seq_len": 512, "new_tokens": 2, "head_dim": 64})
        if device.kind not in PRECISIONS[of.variant.precision].devices:
            continue
        assert predict(of, device).latency_ms > 0.99 * bound(of, device).latency_ms
