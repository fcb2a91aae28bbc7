"""Kernels of packages on the GPU: all that is declared of them, heads and widths in turn.

What is not installed is skipped. The contract tests try them, too, at two shapes.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
import torch

from objectives.schema.evaluation import Outcome
from objectives.schema.limits import Limits
from objectives.trial.bench import DeviceBench
from tests.combinations import HIDDEN_SIZE, MODES, contract_device
from tests.configurations import configured
from tests.variants.test_contract import limit, run_and_compare
from variants.backends import BACKENDS
from variants.backends.fp8_query import rounded_query
from variants.caches import CACHES
from variants.configuration import Configuration
from variants.detect import detect_device
from variants.support import unsupported_reasons
from variants.workload import Phase, Workload

pytestmark = pytest.mark.cuda

OPTIONAL = [name for name, backend in BACKENDS.items() if backend.packages]
Q_HEADS = 8
SHAPES = list(itertools.product((1, 2, 4, 8), (64, 96, 128, 256)))  # kv_heads, head_dim
MODS = ("none", "sliding_window:30", "sliding_window:1", "softcap:2")
LENGTHS = (129, 150, 257, 1023)


def of(backend: str, mode: str, choices: dict[str, str], **fields: object) -> Configuration:
    decodes = mode in CACHES
    workload = Workload.model_validate(
        {"phase": Phase.DECODE if decodes else Phase(mode), "batch": 3, "new_tokens": 3}
        | {"q_heads": Q_HEADS, "hidden_size": HIDDEN_SIZE}
        | fields
    )
    cache = {"cache": mode} if decodes else {}
    return Configuration.of(workload, {"backend": backend, **cache, **choices})


def declared() -> Iterator[Configuration]:
    """Every precision × mode × score_mod × kv_dtype × execution, at two shapes of all each."""
    device, chance = contract_device("cuda"), random.Random(0)
    axes = (("bf16", "fp16"), MODES, MODS, ("same", "int8", "fp8"), ("eager", "cuda_graph"))
    found: dict[str, Configuration] = {}
    for backend in OPTIONAL:
        for precision, mode, mod, kind, execution in itertools.product(*axes):
            for kv_heads, head_dim in chance.sample(SHAPES, 2):
                gqa = chance.choice(("native", "repeat_kv"))
                choices = {"precision": precision, "execution": execution, "gqa": gqa}
                shape = {"kv_heads": kv_heads, "head_dim": head_dim, "score_mod": mod}
                length = {"seq_len": chance.choice(LENGTHS)}
                one = of(backend, mode, choices | {"kv_dtype": kind}, **shape, **length)
                if not unsupported_reasons(one, device):
                    found.setdefault(one.key, one)
        for (kv_heads, head_dim), mode in itertools.product(SHAPES, ("prefill", "static")):
            shape = {"kv_heads": kv_heads, "head_dim": head_dim, "seq_len": 301}
            one = of(backend, mode, {"precision": "bf16"}, **shape)
            if not unsupported_reasons(one, device):
                found.setdefault(one.key, one)
        for mode in ("prefill", "static"):
            one = of(backend, mode, {"precision": "bf16", "execution": "compiled"}, seq_len=150)
            if not unsupported_reasons(one, device):
                found.setdefault(one.key, one)
    yield from found.values()


DECLARED = list(declared()) if torch.cuda.is_available() else []


@pytest.mark.parametrize("configuration", DECLARED, ids=lambda c: c.key)
def test_what_is_declared_agrees_with_the_reference(configuration: Configuration) -> None:
    error, ran = run_and_compare(configuration, "cuda")
    assert error <= limit(configuration, "cuda")
    assert ran == configuration.variant.backend


@pytest.fixture(scope="module")
def bench() -> Iterator[DeviceBench]:
    bench = DeviceBench(Limits(sampling_s=0.01, max_error=0.2), seed=0, device="cuda")
    yield bench
    bench.close()


BASE = {"q_heads": 4, "head_dim": 64, "seq_len": 64, "batch": 2}
OUTSIDE = {
    "fa3 head_dim": ("fa3", "prefill", {"precision": "bf16"}, {"head_dim": 264}),
    "fa3 multiple": ("fa3", "prefill", {"precision": "bf16"}, {"head_dim": 20}),
    "fa3 fp8 head_dim": (
        "fa3", "static", {"precision": "bf16", "kv_dtype": "fp8"}, {"head_dim": 72}
    ),
    "fa3 both": (
        "fa3", "prefill", {"precision": "bf16"}, {"score_mod": "softcap:2+sliding_window:9"}
    ),
    "fa3 backward": ("fa3", "train", {"precision": "bf16"}, {}),
    "cudnn_graph multiple": ("cudnn_graph", "static", {"precision": "bf16"}, {"head_dim": 20}),
    "cudnn_graph prefill": ("cudnn_graph", "prefill", {"precision": "bf16"}, {}),
}  # fmt: skip


@pytest.mark.parametrize("edge", OUTSIDE)
def test_what_is_outside_of_a_limit_does_not_run(edge: str, bench: DeviceBench) -> None:
    backend, mode, choices, fields = OUTSIDE[edge]
    configuration = of(backend, mode, choices, **(BASE | fields))
    if not BACKENDS[backend].is_there(detect_device("cuda")):
        pytest.skip(f"no package of {backend} is installed")
    assert unsupported_reasons(configuration, detect_device("cuda"))
    assert bench.evaluate(configuration).outcome is not Outcome.MEASURED


def test_one_plan_serves_many_lengths(bench: DeviceBench) -> None:
    """What a new length costs is told, and is no stall."""
    if not BACKENDS["cudnn_graph"].is_there(detect_device("cuda")):
        pytest.skip("nvidia-cudnn-frontend is not installed")
    workload = Workload(seq_len=512, new_tokens=64, batch=2, q_heads=8, kv_heads=2, head_dim=128)
    found = bench.evaluate(configured(workload, "cudnn_graph bf16 static"))
    assert found.outcome is Outcome.MEASURED, found.reason


@pytest.mark.parametrize(
    ("rows", "heads", "kv_heads"), [(1, 32, 8), (1, 5, 5), (3, 16, 2), (40, 8, 1)]
)
@pytest.mark.parametrize("width", [64, 96, 256])
def test_the_rounding_kernel_is_the_rounding(
    rows: int, heads: int, kv_heads: int, width: int
) -> None:
    pytest.importorskip("triton")
    torch.manual_seed(0)
    # In the layout that projections leave: (batch, rows, heads · width).
    made = torch.randn(3, rows, heads, width, device="cuda", dtype=torch.bfloat16) * 30
    made[0, :, : heads // kv_heads] = 0
    query = made.transpose(1, 2)
    found, expected = rounded_query(query, kv_heads), rounded_query(query.cpu(), kv_heads)
    torch.testing.assert_close(found.scale.cpu(), expected.scale, rtol=1e-6, atol=0)
    # A quotient that lies in the middle between two numbers may be rounded to either.
    scales = expected.scale.double().repeat_interleave(heads // kv_heads, dim=1)
    exact = made.cpu().double() / scales[:, None, :, None]
    off, least = ((part.cpu().double() - exact).abs() for part in (found.query, expected.query))
    assert bool((off <= least + 1e-5 * exact.abs()).all())
    assert found.query.is_contiguous()
