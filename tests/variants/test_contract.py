"""Every supported backend × precision × cache × score_mod × phase against the reference."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch

from objectives.accuracy import relative_error
from objectives.kernels import kernels_of_step
from variants.backends import BACKENDS, backend_that_ran
from variants.caches import CACHES
from variants.configuration import Configuration
from variants.detect import detect_device
from variants.device import DEVICE_PROFILES, Device
from variants.precisions import PRECISIONS
from variants.reference import reference_output
from variants.run import Run
from variants.score_mods import SCORE_MODS
from variants.support import unsupported_reasons
from variants.variant import Variant
from variants.workload import Phase, Workload

SEED = 3
# Unit roundoff of a product; TF32 keeps float16's mantissa.
ROUNDOFF = {"fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8, "fp16": 2.0**-11}
MODS = {"none": "none", "alibi": "alibi", "relative": "relative", "softcap": "softcap:2"} | {
    "sliding_window": "sliding_window:30"
}


def workload(phase: str, mod: str, kv_heads: int) -> Workload:
    return Workload(
        phase=Phase(phase),
        batch=2,
        seq_len=150,  # more than one block of 128, and no multiple of one
        new_tokens=3,
        q_heads=4,
        kv_heads=kv_heads,
        head_dim=16,
        hidden_size=48,  # not q_heads · head_dim: projections are rectangular
        score_mod=MODS[mod],
    )


def every_configuration(profile: str) -> list[Configuration]:
    """What is declared to run on a device of that profile."""
    found = []
    for mod, precision, backend in itertools.product(SCORE_MODS, PRECISIONS, BACKENDS):
        for phase, cache_name in [("prefill", None), *(("decode", name) for name in CACHES)]:
            found += [
                Configuration(
                    workload=workload(phase, mod, kv_heads),
                    variant=Variant(backend=backend, precision=precision, cache=cache_name),
                )
                for kv_heads in (4, 2)
            ]
    device = DEVICE_PROFILES[profile].device
    return [
        configuration for configuration in found if not unsupported_reasons(configuration, device)
    ]


def compiles_too_much_for_a_cpu(configuration: Configuration) -> bool:
    """FlexAttention compiles for seconds on a CPU: a part of its combinations has to do there."""
    if configuration.variant.backend != "flex":
        return False
    mod = configuration.workload.score_mod.partition(":")[0]
    chosen = {
        ("none", None, "fp32", 2),
        ("alibi", None, "bf16", 4),
        ("relative", "concat", "fp32", 4),
        ("softcap", "static", "fp32", 4),
        ("sliding_window", "static", "bf16", 2),
        ("alibi", "none", "fp32", 4),
    }
    variant = configuration.variant
    key = (mod, variant.cache, variant.precision, configuration.workload.kv_heads)
    return key not in chosen


@cache
def here(kind: str) -> Device:
    return detect_device("cuda" if kind == "cuda" else "cpu")


@cache
def reference(of: Workload, kind: str) -> torch.Tensor:
    return reference_output(of, torch.device(kind), SEED)


def run_and_compare(configuration: Configuration, kind: str) -> tuple[float, str | None]:
    """The error over all steps, and the backend that ran."""
    torch._dynamo.reset()
    run = Run(configuration, torch.device(kind), SEED)
    outs = [run.new_rows(run.step(index)).cpu() for index in range(run.steps)]
    error = relative_error(torch.cat(outs, dim=1), reference(configuration.workload, kind))
    ran = backend_that_ran(kernels_of_step(run), "cuda" if kind == "cuda" else "cpu")
    return error, ran


@cache
def eager_error(of: Workload, precision: str, kind: str) -> float:
    """The error of the written-out attention in the same precision, a yardstick."""
    variant = Variant(backend="eager", precision=precision, cache="static" if of.decodes else None)
    return run_and_compare(Configuration(workload=of, variant=variant), kind)[0]


PRODUCTS = 4  # a token passes through four matrix products: projection, QKᵀ, PV, projection


def largest_bias(of: Workload) -> float:
    return {"relative": of.capacity, "alibi": 0.25 * of.capacity}.get(of.score_mod, 0.0)


def eager_limit(of: Workload, precision: str) -> float:
    """Twice a roundoff for each product, and more for scores as large as their bias.

    The written-out attention adds a dense bias in its own precision, so a score of magnitude M
    is off by about M roundoffs, and so is its weight. Float32 sums many more terms of a size
    near its roundoff, and gets eight times as much.
    """
    more = 8 if precision == "fp32" else 1
    return 2 * PRODUCTS * more * ROUNDOFF[precision] * (1 + largest_bias(of))


def limit(of: Workload, precision: str, kind: str) -> float:
    """What a backend may add to the written-out attention's error of the same precision.

    Each product may round once more (a TF32 product that eager computes by a float32 kernel),
    and fused kernels hold scores in float32, whatever the precision.
    """
    own = PRODUCTS * (8 if precision == "fp32" else 1) * ROUNDOFF[precision]
    scores = PRODUCTS * ROUNDOFF["fp32"] * largest_bias(of)
    return max(2 * eager_error(of, precision, kind), own) + scores


def check(configuration: Configuration, kind: str) -> None:
    reasons = unsupported_reasons(configuration, here(kind))
    if reasons:
        pytest.skip("; ".join(reasons))
    of, variant = configuration.workload, configuration.variant
    error, ran = run_and_compare(configuration, kind)
    if variant.backend == "eager":
        assert error <= eager_limit(of, variant.precision)
    else:
        assert error <= limit(of, variant.precision, kind)
    if BACKENDS[variant.backend].searched:
        assert ran == variant.backend


CPU = [c for c in every_configuration("cpu") if not compiles_too_much_for_a_cpu(c)]


@pytest.mark.parametrize("configuration", CPU, ids=lambda c: c.key)
def test_agrees_with_the_reference_on_cpu(configuration: Configuration) -> None:
    check(configuration, "cpu")


@pytest.mark.cuda
@pytest.mark.parametrize("configuration", every_configuration("h100"), ids=lambda c: c.key)
def test_agrees_with_the_reference_on_cuda(configuration: Configuration) -> None:
    check(configuration, "cuda")


def test_reference_agrees_with_sdpa_in_float64() -> None:
    # The oracle itself against PyTorch's, where PyTorch can say the same thing.
    of = workload("prefill", "none", 2)
    run = Run(
        Configuration(workload=of, variant=Variant(backend="math", precision="fp32")),
        torch.device("cpu"),
        SEED,
    )
    layer = run.layer.double()
    hidden = torch.stack([_hidden(of, sequence) for sequence in range(of.batch)]).double()

    def heads(projected: torch.Tensor) -> torch.Tensor:
        return projected.unflatten(-1, (-1, of.head_dim)).transpose(1, 2)

    attended = torch.nn.functional.scaled_dot_product_attention(
        heads(layer.q_proj(hidden)),
        heads(layer.k_proj(hidden)),
        heads(layer.v_proj(hidden)),
        is_causal=True,
        enable_gqa=True,
    )
    expected = layer.o_proj(attended.transpose(1, 2).flatten(2))
    torch.testing.assert_close(reference(of, "cpu"), expected.detach(), rtol=1e-9, atol=1e-9)


def _hidden(of: Workload, sequence: int) -> torch.Tensor:
    from variants.inputs import random_hidden

    return random_hidden(of, sequence, torch.device("cpu"), SEED)


@pytest.mark.parametrize(
    "damage",
    [
        lambda scores: scores.tril(-1),  # a mask that hides the query's own key
        lambda scores: scores * 4,  # a forgotten scale
        lambda scores: scores.transpose(1, 2),  # softmax over the wrong axis
    ],
    ids=["mask", "scale", "axis"],
)
def test_planted_mistakes_are_far_outside_the_tolerance(damage: object) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(4, 64, 16, dtype=torch.float64) for _ in range(3))
    scores = (query @ key.transpose(1, 2) / 4).masked_fill(
        torch.ones(64, 64, dtype=torch.bool).triu(1), -20.0
    )
    right = scores.softmax(-1) @ value
    wrong = damage(scores).softmax(-1) @ value  # type: ignore[operator]
    assert relative_error(wrong, right) > 10 * ROUNDOFF["bf16"] * 8
