from __future__ import annotations

import pytest

from objectives.roofline import bound
from variants.configuration import Configuration
from variants.device import DEVICE_PROFILES
from variants.variant import Variant
from variants.workload import Phase, Workload

H100 = DEVICE_PROFILES["h100"].device
DECODE = Workload(batch=4, seq_len=2048, q_heads=16, head_dim=64)


def least(
    workload: Workload, precision: str = "bf16", cache: str | None = "static"
) -> tuple[float, float]:
    variant = Variant(backend="math", precision=precision, cache=cache)
    found = bound(Configuration(workload=workload, variant=variant), H100)
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
    assert least(prefill, cache=None)[0] == pytest.approx(operations / 989e12 * 1e3)
    # Measured on an H100: 19.1 ms by cuDNN, 28.3 ms by FlashAttention-2. No lie is accused there.
    assert least(prefill, cache=None)[0] < 0.95 * 19.1


def test_a_window_needs_its_own_keys_alone() -> None:
    windowed = DECODE.model_copy(update={"score_mod": "sliding_window:256"})
    assert least(windowed)[0] < least(DECODE)[0]


def test_layers_multiply_time_and_what_stays() -> None:
    four = DECODE.model_copy(update={"layers": 4})
    assert least(four)[0] == pytest.approx(4 * least(DECODE)[0])
    assert least(four)[1] == pytest.approx(4 * least(DECODE)[1], rel=1e-2)


def test_float32_is_slower_than_its_tensor_core_form() -> None:
    prefill = Workload(phase=Phase.PREFILL, seq_len=8192)
    fp32, tf32, bf16 = (least(prefill, p, None)[0] for p in ("fp32", "tf32", "bf16"))
    assert fp32 > tf32 > bf16
