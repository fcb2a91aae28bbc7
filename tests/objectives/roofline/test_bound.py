from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
import torch

from objectives.roofline.bound import DATASHEET, Peaks, bound, peaks_of, under_roofline
from objectives.roofline.peaks import measure_peaks
from objectives.schema.evaluation import Evaluation, Outcome
from tests.configurations import configured
from tests.fake_bench import measurements
from variants.detect import detect_device
from variants.device import DEVICE_PROFILES
from variants.score_mods import SCORE_MODS, parse_score_mod
from variants.workload import Phase, Workload

H100 = DEVICE_PROFILES["h100"].device
DECODE = Workload(batch=4, seq_len=2048, q_heads=16, head_dim=64)


def least(
    workload: Workload, precision: str = "bf16", cache: str = "static", **choices: str
) -> tuple[float, float]:
    found = bound(configured(workload, f"math {precision} {cache}", **choices), H100)
    return found.latency_ms, found.memory_mib


def test_decode_is_bound_by_reading_cache_and_weights() -> None:
    weights = 4 * 1024 * 1024 * 2
    cache = 2 * 4 * 16 * 64 * 2048 * 2
    latency_ms, memory_mib = least(DECODE)
    assert latency_ms == pytest.approx((weights + cache) / 3350e9 * 1e3, rel=1e-2)
    assert memory_mib == pytest.approx((weights + cache * 2056 / 2048) / 2**20, rel=1e-2)


def test_prefill_is_bound_by_operations() -> None:
    prefill = Workload(phase=Phase.PREFILL, seq_len=65536, q_heads=16, head_dim=64)
    pairs = 65536 * 65537 / 2
    operations = 4 * 16 * 64 * pairs + 2 * 65536 * 4 * 1024 * 1024
    assert least(prefill)[0] == pytest.approx(operations / 989e12 * 1e3)
    # Measured on an H100: 19.1 ms by cuDNN, 28.3 ms by FlashAttention-2. No lie is accused there.
    assert least(prefill)[0] < 0.95 * 19.1


def test_a_window_needs_its_own_keys_alone() -> None:
    windowed = DECODE.model_copy(update={"score_mod": "sliding_window:256"})
    assert least(windowed)[0] < least(DECODE)[0]


def test_layers_multiply_time_and_what_stays() -> None:
    four = DECODE.model_copy(update={"layers": 4})
    assert least(four)[0] == pytest.approx(4 * least(DECODE)[0])
    assert least(four)[1] == pytest.approx(4 * least(DECODE)[1], rel=1e-2)


def test_float32_is_slower_than_its_tensor_core_form() -> None:
    prefill = Workload(phase=Phase.PREFILL, seq_len=8192)
    fp32, tf32, bf16 = (least(prefill, p)[0] for p in ("fp32", "tf32", "bf16"))
    assert fp32 > tf32 > bf16


def test_eight_bits_halve_what_they_store() -> None:
    bf16, int8 = least(DECODE), least(DECODE, kv_dtype="int8")
    fp8, weights = least(DECODE, kv_dtype="fp8"), least(DECODE, quantization="int8_weight_only")
    cache_mib = 2 * 4 * 16 * 64 * 2056 * 2 / 2**20
    assert bf16[1] - fp8[1] == pytest.approx(cache_mib / 2)
    assert bf16[1] - int8[1] == pytest.approx(cache_mib / 2 * (1 - 2 / 64))  # a scale a token
    assert bf16[1] - weights[1] == pytest.approx(4)
    assert fp8[0] < int8[0] < bf16[0]


def test_a_ring_needs_its_window_alone() -> None:
    windowed = DECODE.model_copy(update={"score_mod": "sliding_window:256"})
    ring, static = least(windowed, cache="ring"), least(windowed)
    assert ring[0] == static[0]
    assert static[1] - ring[1] == pytest.approx(2 * 4 * 16 * 64 * (2056 - 256) * 2 / 2**20)


def test_training_computes_three_times_and_holds_gradients() -> None:
    prefill = Workload(phase=Phase.PREFILL, seq_len=8192)
    train = Workload(phase=Phase.TRAIN, seq_len=8192)
    assert least(train)[0] == pytest.approx(3 * least(prefill)[0])
    # Weights and their gradients, and what goes in and comes out.
    assert least(train)[1] == pytest.approx(2 * 8 + 2 * 16)


@pytest.mark.parametrize("mod", SCORE_MODS)
def test_visible_pairs_are_those_of_the_mask(mod: str) -> None:
    of = parse_score_mod({"document": "document:20", "prefix_lm": "prefix_lm:13"}.get(mod, mod))
    visible = of.bind(2, torch.device("cpu")).visible
    idx = torch.arange(70)
    counts = visible(idx[:, None], idx).expand(70, 70).sum(dim=1).tolist()
    assert counts == [of.visible_keys(position, 70) for position in range(70)]


def test_a_trial_is_placed_under_the_rates_of_its_study() -> None:
    of = configured(DECODE, "flash bf16 static")
    evaluation = Evaluation(
        configuration=of, outcome=Outcome.MEASURED, measurements=measurements(0.05, 40.0)
    )
    placed = {}
    half = replace(DATASHEET["NVIDIA H100"], bandwidth_gb_s=3350 / 2)
    for peaks in (None, half):
        measured = under_roofline(evaluation, H100, peaks).measurements
        assert measured is not None
        assert measured.roofline is not None
        placed[measured.roofline.rates] = measured.roofline
    assert placed.keys() == {"datasheet", "measured"}
    assert placed["measured"].latency_ms == pytest.approx(2 * placed["datasheet"].latency_ms)
    assert placed["datasheet"].latency_share == pytest.approx(least(DECODE)[0] / 0.05)
    assert placed["datasheet"].memory_share == pytest.approx(least(DECODE)[1] / 40.0)
    assert placed["datasheet"].limit == "bandwidth"
    failed = Evaluation(configuration=of, outcome=Outcome.CRASHED)
    assert under_roofline(failed, H100, half) == failed


def test_this_machine_has_rates() -> None:
    peaks = measure_peaks(torch.device("cpu"))
    rates = dataclasses.asdict(peaks)
    assert rates.pop("yardstick_ms") is None  # it is taken beside trials
    assert all(rate > 0 for rate in rates.values())
    assert Peaks(**rates) == peaks
    assert peaks.eight_bit_tflops == peaks.half_tflops  # no float8 products here


@pytest.mark.cuda
def test_a_gpu_reaches_most_of_its_datasheet_and_not_more() -> None:
    peaks, sheet = measure_peaks(torch.device("cuda")), peaks_of(detect_device("cuda"))
    if not sheet[1]:
        pytest.skip("the device's datasheet is not listed")
    for name in ("half_tflops", "tf32_tflops", "bandwidth_gb_s"):
        assert 0.5 < getattr(peaks, name) / getattr(sheet[0], name) < 1.05
