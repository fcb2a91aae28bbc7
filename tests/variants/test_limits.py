"""Declared limits at their edges, and against PyTorch's own answers, on the GPU."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from objectives.schema.evaluation import Outcome
from objectives.schema.limits import Limits
from objectives.trial.bench import DeviceBench
from tests.configurations import configured
from variants.backends import BACKENDS
from variants.configuration import Configuration
from variants.detect import detect_device
from variants.device import DEVICE_PROFILES
from variants.sdpa_answers import sdpa_accepts
from variants.support import unsupported_reasons
from variants.workload import Workload

H100 = DEVICE_PROFILES["h100"].device
PREFILL: dict[str, Any] = {"phase": "prefill", "batch": 2, "seq_len": 64, "q_heads": 4}
DECODE: dict[str, Any] = {"phase": "decode", "seq_len": 64, "q_heads": 4, "head_dim": 64}


def at(
    words: str, base: dict[str, Any], *, quantization: str = "none", **fields: Any
) -> Configuration:
    of = Workload.model_validate(base | fields)
    return configured(of, words, quantization=quantization)


def prefill(words: str, **fields: Any) -> Configuration:
    return at(words, PREFILL, **fields)


def train(words: str, **fields: Any) -> Configuration:
    return at(words, PREFILL | {"phase": "train"}, **fields)


def quantized(name: str, **fields: Any) -> Configuration:
    return at("math bf16 static", DECODE, quantization=name, **fields)


EDGES = {
    "flash head_dim": (prefill("flash bf16", head_dim=256), prefill("flash bf16", head_dim=264)),
    "flash odd head_dim": (prefill("flash bf16", head_dim=20), None),
    "cudnn head_dim": (prefill("cudnn bf16", head_dim=256), prefill("cudnn bf16", head_dim=264)),
    "cudnn multiple": (prefill("cudnn bf16", head_dim=24), prefill("cudnn bf16", head_dim=20)),
    "cudnn backward": (train("cudnn bf16", head_dim=256), train("cudnn bf16", head_dim=264)),
    "efficient half": (
        prefill("efficient bf16", head_dim=24),
        prefill("efficient bf16", head_dim=20),
    ),
    "efficient float": (
        prefill("efficient fp32", head_dim=20),
        prefill("efficient fp32", head_dim=18),
    ),
    "efficient large": (prefill("efficient bf16", head_dim=512), None),
    "flex smallest": (prefill("flex bf16", head_dim=16), prefill("flex bf16", head_dim=8)),
    "flex odd": (prefill("flex bf16", head_dim=20), None),
    "flex large": (prefill("flex bf16", head_dim=256), None),
    "int8_dynamic rows": (
        quantized("int8_dynamic", batch=17),
        quantized("int8_dynamic", batch=16),
    ),
    "int8_dynamic features": (
        quantized("int8_dynamic", batch=32, hidden_size=72),
        quantized("int8_dynamic", batch=32, hidden_size=76),
    ),
    "fp8_dynamic features": (
        quantized("fp8_dynamic", batch=32, hidden_size=80),
        quantized("fp8_dynamic", batch=32, hidden_size=72),
    ),
    "fp8_dynamic weight": (
        quantized("fp8_dynamic", q_heads=2, hidden_size=144),
        quantized("fp8_dynamic", q_heads=2, hidden_size=128),
    ),
    "fp8_dynamic rows": (quantized("fp8_dynamic", batch=1), None),
    "int8_weight_only sizes": (quantized("int8_weight_only", batch=1, hidden_size=76), None),
    "fp8_weight_only sizes": (quantized("fp8_weight_only", batch=1, hidden_size=76), None),
}


@pytest.fixture(scope="module")
def bench() -> Iterator[DeviceBench]:
    bench = DeviceBench(Limits(sampling_s=0.01, max_error=0.2), seed=0, device="cuda")
    yield bench
    bench.close()


@pytest.mark.parametrize("edge", EDGES)
def test_an_edge_is_declared(edge: str) -> None:
    inside, outside = EDGES[edge]
    assert not unsupported_reasons(inside, H100)
    assert outside is None or unsupported_reasons(outside, H100)


@pytest.mark.cuda
@pytest.mark.parametrize("edge", EDGES)
def test_a_declared_edge_is_where_it_is(edge: str, bench: DeviceBench) -> None:
    inside, outside = EDGES[edge]
    found = bench.evaluate(inside)
    assert found.outcome is Outcome.MEASURED, found.reason
    if outside is not None:
        assert bench.evaluate(outside).outcome is not Outcome.MEASURED


ASKED = [
    at(f"{backend} {precision}", PREFILL | {"phase": phase}, **fields)
    for backend, precision, phase in itertools.product(
        ("flash", "efficient", "cudnn"), ("fp32", "tf32", "bf16", "fp16"), ("prefill", "train")
    )
    for fields in (
        *({"head_dim": d} for d in (8, 16, 20, 64, 128, 136, 192, 256, 264)),
        *({"head_dim": 64, "score_mod": mod} for mod in ("alibi", "sliding_window:20")),
        *({"head_dim": 64, "kv_heads": 2, "score_mod": mod} for mod in ("none", "alibi")),
    )
]


@pytest.mark.cuda
@pytest.mark.parametrize("configuration", ASKED, ids=lambda c: c.key)
def test_declarations_are_pytorchs_own(configuration: Configuration) -> None:
    declared = not unsupported_reasons(configuration, detect_device("cuda"))
    assert sdpa_accepts(configuration) == declared


def test_every_forced_sdpa_backend_is_asked() -> None:
    cuda = {name for name, b in BACKENDS.items() if b.searched and "cuda" in b.support}
    cuda -= {name for name, b in BACKENDS.items() if b.packages}
    assert {c.variant.backend for c in ASKED} == cuda - {"eager", "math", "flex"}
