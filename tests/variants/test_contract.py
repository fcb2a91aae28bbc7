"""Every combination against the reference: each is declared to run and does, or neither.

The full factorial of backend × precision × cache × score_mod × phase at one shape, a covering
array of all axes at another, and for every reason not to run some combinations that try it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import pytest
import torch

from objectives.metrics.accuracy import largest_error, relative_error
from objectives.metrics.kernels import kernels_of_step
from objectives.schema.evaluation import Outcome
from objectives.schema.limits import Limits
from objectives.trial.bench import DeviceBench
from tests.combinations import (
    CORE,
    FACTORS,
    contract_device,
    covering,
    factorial,
    factors_of,
    packages,
    refused_for_one_reason,
)
from tests.variants.quantized_reference import quantized_reference
from variants.backends import BACKENDS, backend_that_ran
from variants.configuration import Configuration
from variants.detect import detect_device
from variants.device import Device, DeviceKind
from variants.layer.reference import reference_results
from variants.layer.run import Run
from variants.quantizations import QUANTIZATIONS
from variants.support import unsupported_reasons
from variants.workload import Workload

SEED = 3
# Unit roundoff of a product; TF32 keeps float16's mantissa.
ROUNDOFF = {"fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8, "fp16": 2.0**-11}
# Of 8-bit numbers, relative to themselves: float8 has three bits of mantissa; int8 has 127 steps
# to the largest of a row, which is within four times the usual size.
EIGHT_BIT_STEP = {"int8": 4 * 2.0**-7, "fp8": 2.0**-3}
PRODUCTS = 4  # a token passes through four matrix products: projection, QKᵀ, PV, projection
WRONG = 0.1  # no combination that computes what it should is off by so much


@functools.cache
def here(kind: DeviceKind) -> Device:
    return detect_device(kind)


@functools.cache
def reference(of: Workload, kind: DeviceKind) -> dict[str, torch.Tensor]:
    return dict(reference_results(of, torch.device(kind), SEED))


def run_and_compare(configuration: Configuration, kind: DeviceKind) -> tuple[float, str | None]:
    """The error over all steps, and the backend that ran."""
    torch._dynamo.reset()
    run = Run(configuration, torch.device(kind), SEED)
    steps = [
        {name: tensor.cpu() for name, tensor in run.results(run.step(index)).items()}
        for index in range(run.steps)
    ]
    results = {name: torch.cat([step[name] for step in steps], dim=1) for name in steps[0]}
    if is_quantized(configuration):
        error = relative_error(results["out"], quantized_reference(run, SEED))
    else:
        error = largest_error(results, reference(configuration.workload, kind))
    return error, backend_that_ran(kernels_of_step(run), kind)


def is_quantized(configuration: Configuration) -> bool:
    variant = configuration.variant
    return variant.quantization != "none" or variant.kv_dtype not in (None, "same")


@functools.cache
def eager_error(of: Workload, precision: str, kind: DeviceKind) -> float:
    """The error of the written-out attention in the same precision, a yardstick."""
    plain = {"backend": "eager", "precision": precision, "cache": "static"}
    return run_and_compare(Configuration.of(of, plain), kind)[0]


def products(of: Workload, precision: str) -> int:
    """Products whose errors add up; a gradient passes through twice as many more.

    Float32 sums many more terms of a size near its roundoff, and gets eight times as much.
    """
    return PRODUCTS * (3 if of.trains else 1) * (8 if precision == "fp32" else 1)


def largest_bias(of: Workload) -> float:
    return {"relative": of.capacity, "alibi": 0.25 * of.capacity}.get(of.score_mod, 0.0)


def eager_limit(of: Workload, precision: str) -> float:
    """Twice a roundoff for each product, and more for scores as large as their bias.

    The written-out attention adds a dense bias in its own precision, so a score of magnitude M
    is off by about M roundoffs, and so is its weight.
    """
    return 2 * products(of, precision) * ROUNDOFF[precision] * (1 + largest_bias(of))


def limit(configuration: Configuration, kind: DeviceKind) -> float:
    """What a backend may add to the written-out attention's error of the same precision.

    Each product may round once more (a TF32 product that eager computes by a float32 kernel),
    and fused kernels hold scores in float32, whatever the precision. Where both round to 8 bits,
    numbers that are off by d round differently in d / s of all cases, by a step s then: √(d · s)
    in the mean square, by which they are off when they are rounded next.
    """
    of, precision = configuration.workload, configuration.variant.precision
    own = products(of, precision) * ROUNDOFF[precision]
    scores = products(of, precision) * ROUNDOFF["fp32"] * largest_bias(of)
    error = max(2 * eager_error(of, precision, kind), own) + scores
    for step in steps_of(configuration):
        error += math.sqrt(error * step)
    return error + ties(configuration)


def steps_of(configuration: Configuration) -> Iterator[float]:
    """The steps of the 8-bit numbers that variant and reference round on their own, in order."""
    variant = configuration.variant
    if variant.kv_dtype in EIGHT_BIT_STEP:
        yield EIGHT_BIT_STEP[variant.kv_dtype]
    if QUANTIZATIONS[variant.quantization].multiplies_quantized:
        yield EIGHT_BIT_STEP["fp8" if variant.quantization.startswith("fp8") else "int8"]


def ties(configuration: Configuration) -> float:
    """What a step of one number in each row of n makes, before attention and behind it.

    torchao's int8_dynamic scales the largest to 127.5, from where any error rounds it up or down.
    """
    if configuration.variant.quantization != "int8_dynamic":
        return 0.0
    of = configuration.workload
    rows = (of.hidden_size, of.q_heads * of.head_dim)
    return sum(EIGHT_BIT_STEP["int8"] / math.sqrt(n) for n in rows)


def check(configuration: Configuration, kind: DeviceKind) -> None:
    reasons = unsupported_reasons(configuration, here(kind))
    if reasons:
        pytest.skip("; ".join(reasons))
    of, variant = configuration.workload, configuration.variant
    error, ran = run_and_compare(configuration, kind)
    written_out = variant.backend == "eager" and not is_quantized(configuration)
    most = eager_limit(of, variant.precision) if written_out else limit(configuration, kind)
    assert error <= most
    if BACKENDS[variant.backend].searched:
        assert ran == variant.backend


def compiles(configuration: Configuration) -> bool:
    return configuration.variant.compiles


def is_compiled(configuration: Configuration) -> bool:
    return configuration.variant.execution == "compiled"


def is_flex(configuration: Configuration) -> bool:
    return configuration.variant.backend == "flex"


def combinations_of(kind: DeviceKind, *, everything: bool) -> tuple[Configuration, ...]:
    """What a device of that kind has to show."""
    device = contract_device(kind)
    if kind == "cuda":
        return (*factorial(device).supported, *covering(device, 3).rows)
    all_of_core = factorial(device).supported
    light = covering(device, 3, lambda c: not compiles(c)).rows
    # On a CPU a combination compiles for seconds.
    heavy = [
        covering(device, 2 if everything else 1, some).rows for some in (is_compiled, is_flex)
    ]
    core = all_of_core if everything else (c for c in all_of_core if not compiles(c))
    return (*core, *light, *heavy[0], *heavy[1])


def overreach(kind: DeviceKind, device: Device) -> dict[str, list[Configuration]]:
    refused = refused_for_one_reason(device, 3 if kind == "cuda" else 1)
    # TF32 on a CPU would run as float32: it is the name that says no.
    return {reason: c for reason, c in refused.items() if not reason.startswith("precision tf32")}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    kind: DeviceKind = "cuda" if metafunc.function.__name__.endswith("cuda") else "cpu"
    nothing = kind == "cuda" and not torch.cuda.is_available()  # skipped all the same
    if "configuration" in metafunc.fixturenames:
        everything = metafunc.config.getoption("--everything")
        found = () if nothing else combinations_of(kind, everything=everything)
        metafunc.parametrize("configuration", found, ids=lambda c: c.key)
    if "refusal" in metafunc.fixturenames:
        refusals = {} if nothing else overreach(kind, contract_device(kind))
        metafunc.parametrize(
            "refusal",
            [(reason, c) for reason, some in refusals.items() for c in some],
            ids=lambda refusal: refusal[1].key,
        )


Record = Callable[[str, object], None]


def test_agrees_with_the_reference_on_cpu(
    configuration: Configuration, record_property: Record
) -> None:
    record_property("declared", "cpu supported")
    check(configuration, "cpu")


@pytest.mark.cuda
def test_agrees_with_the_reference_on_cuda(
    configuration: Configuration, record_property: Record
) -> None:
    record_property("declared", "cuda supported")
    check(configuration, "cuda")


@pytest.fixture(scope="module")
def benches() -> Iterator[Callable[[DeviceKind], DeviceBench]]:
    @functools.cache
    def bench(kind: DeviceKind) -> DeviceBench:
        # A stall is no refusal.
        limits = Limits(sampling_s=0.01, max_error=WRONG, max_stall_ms=1e6)
        made.append(DeviceBench(limits, seed=SEED, device=kind))
        return made[-1]

    made: list[DeviceBench] = []
    yield bench
    for one in made:
        one.close()


def try_refused(bench: DeviceBench, refusal: tuple[str, Configuration]) -> None:
    reason, configuration = refusal
    found = bench.evaluate(configuration)
    assert found.outcome is not Outcome.MEASURED, f"it runs, and was declared not to: {reason}"


def test_what_is_declared_not_to_run_does_not_on_cpu(
    benches: Callable[[DeviceKind], DeviceBench],
    refusal: tuple[str, Configuration],
    record_property: Record,
) -> None:
    record_property("declared", "cpu unsupported")
    try_refused(benches("cpu"), refusal)


@pytest.mark.cuda
def test_what_is_declared_not_to_run_does_not_on_cuda(
    benches: Callable[[DeviceKind], DeviceBench],
    refusal: tuple[str, Configuration],
    record_property: Record,
) -> None:
    record_property("declared", "cuda unsupported")
    try_refused(benches("cuda"), refusal)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_every_choice_is_tried_or_refused_with_a_reason(kind: DeviceKind) -> None:
    every = {package.distribution: package.since for package in packages()}
    device = contract_device(kind)
    if kind == "cuda":
        device = device.model_copy(update={"kernel_packages": every})
    divided = factorial(device)
    assert divided.generated == len(divided.supported) + sum(divided.refused.values())
    tried = {(a, v) for c in divided.supported for a, v in factors_of(c).items() if a in CORE}
    rows = covering(device, 1).rows
    tried |= {(axis, value) for c in rows for axis, value in factors_of(c).items()}
    missing = {(axis, value) for axis, values in FACTORS.items() for value in values} - tried
    words = " ".join((*divided.refused, *overreach(kind, device)))
    assert all(f"{axis} {value} does not exist" in words for axis, value in missing)


def test_reference_agrees_with_sdpa_in_float64() -> None:
    # The oracle itself against PyTorch's where it can say the same thing, gradients included.
    of = Workload.model_validate(
        {"phase": "train", "batch": 2, "seq_len": 70, "q_heads": 4, "kv_heads": 2, "head_dim": 16}
        | {"hidden_size": 48}
    )
    run = Run(
        Configuration.of(of, {"backend": "math", "precision": "fp32"}), torch.device("cpu"), SEED
    )
    layer = run.layer.double()
    for parameter in layer.parameters():
        parameter.grad = None
    hidden = torch.stack([_inputs(of, i)[0] for i in range(of.batch)]).double().requires_grad_()

    def heads(projected: torch.Tensor) -> torch.Tensor:
        return projected.unflatten(-1, (-1, of.head_dim)).transpose(1, 2)

    attended = torch.nn.functional.scaled_dot_product_attention(
        heads(layer.q_proj(hidden)),
        heads(layer.k_proj(hidden)),
        heads(layer.v_proj(hidden)),
        is_causal=True,
        enable_gqa=True,
    )
    out = layer.o_proj(attended.transpose(1, 2).flatten(2))
    out.backward(torch.stack([_inputs(of, i)[1] for i in range(of.batch)]).double())
    found = {"out": out.detach(), "hidden": hidden.grad} | {
        f"{name}_proj": layer.get_parameter(f"{name}_proj.weight").grad for name in "qkvo"
    }
    expected = reference(of, "cpu")
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(expected[name], tensor, rtol=1e-9, atol=1e-9)


def _inputs(of: Workload, sequence: int) -> tuple[torch.Tensor, torch.Tensor]:
    from variants.layer.inputs import random_gradient, random_hidden

    cpu = torch.device("cpu")
    return random_hidden(of, sequence, cpu, SEED), random_gradient(of, sequence, cpu, SEED)


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
