"""The mistakes of a published case study of attention variants: none of them survives here.

Each test makes the mistake, or plants it in the product, and shows what notices. Not here, since
they are no behaviour: lines that do not parse, a set of three equal items. Shown elsewhere: that
the L2 cache is flushed and that CUDA memory is the allocator's (`objectives/test_cuda.py`), that
nothing is proposed twice and numbers are exported as they were measured (`studies/`).
"""

from __future__ import annotations

import ast
import itertools
import random
import statistics
import warnings
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from objectives.metrics.accuracy import relative_error
from objectives.metrics.kernels import kernels_of_step
from objectives.metrics.memory import MIB, measure_memory
from objectives.schema.environment import read_environment
from objectives.schema.evaluation import Evaluation, Measurements, Outcome
from objectives.schema.limits import Limits
from objectives.trial.evaluator import Evaluator
from studies.space.space import SearchSpace
from studies.study.plan import Plan
from tests.configurations import configured
from tests.test_layers import sources
from variants.axes import AXES, VARIANT_AXES
from variants.backends import backend_that_ran
from variants.caches import CacheOverflowError
from variants.configuration import Configuration
from variants.device import DEVICE_PROFILES
from variants.executions import EXECUTIONS
from variants.layer.inputs import Weights, random_hidden, random_weights
from variants.layer.layer import PROJECTIONS
from variants.layer.run import Run
from variants.quantizations import (
    QUANTIZATIONS,
    QuantizationError,
    projection_bytes,
    quantize_projections,
)
from variants.workload import Phase, Workload

CPU = torch.device("cpu")
SEED = 4
DECODE = Workload(batch=2, seq_len=20, new_tokens=3, q_heads=4, head_dim=32)
CACHED = ("flash fp32 concat", "flash fp32 static", "flash fp32 ring")
sdpa = F.scaled_dot_product_attention


def of_cache(words: str) -> Configuration:
    mod = "sliding_window:6" if words.endswith("ring") else "none"
    return configured(DECODE.model_copy(update={"score_mod": mod}), words)


def evaluator(sampling_s: float = 0.01) -> Evaluator:
    return Evaluator(DEVICE_PROFILES["cpu"].device, Limits(sampling_s=sampling_s), SEED)


def evaluate(configuration: Configuration) -> Evaluation:
    return evaluator().evaluate(configuration)


def measured(evaluation: Evaluation) -> Measurements:
    assert evaluation.measurements is not None
    return evaluation.measurements


def outs_of(run: Run) -> list[Tensor]:
    run.restart()
    return [run.step(index).clone() for index in range(run.steps)]


def operators(work: Callable[[], object]) -> list[str]:
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    return [event.key for event in profiler.key_averages()]


def seen_by_sdpa(monkeypatch: pytest.MonkeyPatch, configuration: Configuration) -> list[Tensor]:
    """Query, key and value of one step, as SDPA is given them."""
    seen: list[Tensor] = []

    def spy(*qkv: Tensor, **options: Any) -> Tensor:
        seen.extend(qkv)
        return sdpa(*qkv, **options)

    with monkeypatch.context() as patched:
        patched.setattr(F, "scaled_dot_product_attention", spy)
        Run(configuration, CPU, SEED).step(0)
    return seen


# --- Devices and profiles -----------------------------------------------------------------------


def devices_compared_with_text(code: str) -> list[str]:
    def is_device(node: ast.AST) -> bool:
        return getattr(node, "attr", getattr(node, "id", "")) == "device"

    def names_one(node: ast.AST) -> bool:
        text = node.value if isinstance(node, ast.Constant) else None
        return isinstance(text, str) and text.startswith(("cuda", "cpu"))

    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Compare)
        for sides in [(node.left, *node.comparators)]
        if any(map(is_device, sides)) and any(map(names_one, sides))
    ]


def test_no_device_is_compared_with_text() -> None:
    assert torch.device("cuda:0") != "cuda"
    assert torch.device("cuda:0") != torch.device("cuda")
    assert devices_compared_with_text("if self.q.device == 'cuda': pass")
    for path in sources():
        assert devices_compared_with_text(path.read_text(encoding="utf-8")) == []


def test_a_gpu_with_a_number_is_profiled_as_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # With the host's activity alone, no kernel of the device would be seen.
    asked: list[ProfilerActivity] = []

    class NoProfile:
        profiler = SimpleNamespace(kineto_results=SimpleNamespace(events=list))

        def __init__(self, activities: list[ProfilerActivity]) -> None:
            asked.extend(activities)

        def __enter__(self) -> NoProfile:
            return self

        def __exit__(self, *error: object) -> None:
            pass

    waits: list[str] = []
    monkeypatch.setattr(torch.profiler, "profile", NoProfile)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append("for the kernels"))
    layer = SimpleNamespace(device=torch.device("cuda:0"), execution=EXECUTIONS["eager"])
    run = SimpleNamespace(layer=layer, restart=lambda: None, step=lambda index: None)
    assert kernels_of_step(run) == ()  # type: ignore[arg-type]
    assert asked == [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    assert waits == ["for the kernels"]


def one_then_two_together_then_two() -> None:
    """Allocate 5 MiB, of which 3 exist at once and none in the end."""
    one, two = (torch.empty(size * MIB, dtype=torch.uint8) for size in (1, 2))
    del one, two
    torch.empty(2 * MIB, dtype=torch.uint8)


def test_peak_is_neither_net_nor_gross() -> None:
    class Known(Run):
        def step(self, index: int) -> Tensor:
            one_then_two_together_then_two()
            return self._hidden

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        one_then_two_together_then_two()
    by_operator = [event.self_cpu_memory_usage for event in profiler.key_averages()]
    assert sum(by_operator) < MIB
    assert max(by_operator) == 5 * MIB
    run = Known(of_cache("flash fp32 static"), CPU, SEED)
    memory = measure_memory(run, None, None)
    assert memory.peak_mib * MIB == run.resident_bytes() + 3 * MIB


# --- Caches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", CACHED)
def test_every_pass_of_a_trial_sees_the_same_lengths(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    step = Run.step

    def spy(run: Run, index: int) -> Tensor:
        assert run.layer.cache is not None
        seen.append((index, run.layer.cache.length))
        return step(run, index)

    monkeypatch.setattr(Run, "step", spy)
    configuration = of_cache(words)
    assert evaluate(configuration).outcome is Outcome.MEASURED
    assert len(seen) > 4 * DECODE.new_tokens
    assert set(seen) == {(index, DECODE.seq_len + index) for index in range(DECODE.new_tokens)}
    # A loop that forgot to start anew would not time longer and longer steps in silence.
    monkeypatch.setattr(Run, "restart", lambda run: None)
    with pytest.raises(CacheOverflowError, match="room for 23 tokens and holds 23"):
        evaluate(configuration)


@pytest.mark.parametrize("words", CACHED)
def test_every_pass_returns_the_same(words: str) -> None:
    run = Run(of_cache(words), CPU, SEED)
    first, second = outs_of(run), outs_of(run)
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("cache", ["concat", "static"])
@pytest.mark.parametrize("backend", ["eager", "math", "flash"])
def test_new_tokens_see_themselves(backend: str, cache: str) -> None:
    query, key, value = (torch.randn(1, 1, n, 16) for n in (5, 9, 9))
    outs = [sdpa(query[:, :, i : i + 1], key, value, is_causal=True) for i in range(5)]
    for out in outs:  # one row, aligned top-left: the oldest key is all it sees
        torch.testing.assert_close(out, value[:, :, :1])
    found = outs_of(Run(configured(DECODE, f"{backend} fp32 {cache}"), CPU, SEED))
    recomputed = outs_of(Run(configured(DECODE, "eager fp32 none"), CPU, SEED))
    for ours, theirs in zip(found, recomputed, strict=True):
        assert relative_error(ours, theirs[:, -1:]) < 1e-5
    for one, other in itertools.combinations(found, 2):
        assert relative_error(one, other) > 0.1


@pytest.mark.parametrize("words", CACHED)
def test_length_counts_tokens_and_ends_at_capacity(words: str) -> None:
    # Of `(seq_len, head_dim, head_dim)`, a cache without heads, dimension 2 is head_dim.
    assert torch.empty(DECODE.seq_len, 32, 32).shape[2] == DECODE.head_dim
    run = Run(of_cache(words), CPU, SEED)
    cache = run.layer.cache
    assert cache is not None
    assert cache.length == DECODE.seq_len
    last = outs_of(run)[-1]
    with pytest.raises(CacheOverflowError, match="room for 23 tokens"):
        run.layer(last)
    assert cache.length == DECODE.capacity


@pytest.mark.parametrize("words", CACHED)
def test_a_step_does_not_hold_on_to_those_before(words: str) -> None:
    token = torch.randn(1, 4, requires_grad=True)
    grown = token
    for _ in range(3):
        grown = torch.cat([grown, token])
    chain = grown.grad_fn
    for _ in range(3):  # every past step is still there
        assert chain is not None
        assert chain.name() == "CatBackward0"
        chain = chain.next_functions[0][0]
    run = Run(of_cache(words), CPU, SEED)
    assert run.layer.cache is not None
    run.layer.requires_grad_()  # as a model that was not told otherwise
    outs = outs_of(run)
    for tensor in (*outs, *run.layer.cache.planes):
        assert not tensor.requires_grad
        assert tensor.grad_fn is None


# --- What computes ------------------------------------------------------------------------------


def in_three_dimensions(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # why flash does not take them
        flat = (tensor.flatten(0, 1) for tensor in (query, key, value))
        return sdpa(*flat, **options).view_as(query)


def test_three_dimensions_are_not_measured_as_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    query = torch.randn(2, 8, 16)
    math = "aten::_scaled_dot_product_attention_math"
    assert math in operators(lambda: sdpa(query, query, query))
    assert math not in operators(lambda: sdpa(query[None], query[None], query[None]))
    default, flash = (configured(DECODE, f"{name} fp32 static") for name in ("auto", "flash"))
    assert measured(evaluate(default)).backend_ran == "flash"
    monkeypatch.setattr(F, "scaled_dot_product_attention", in_three_dimensions)
    assert measured(evaluate(default)).backend_ran == "math"
    refused = evaluate(flash)
    assert refused.outcome is Outcome.REFUSED
    assert "No available kernel" in refused.reason


def test_every_dimension_is_where_its_name_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def scores(x: Tensor) -> int:
        return (x @ x.mT).numel()

    # Shaped (seq_len, head_dim, head_dim), twice the tokens are twice the heads.
    assert scores(torch.ones(64, 16, 16)) == 2 * scores(torch.ones(32, 16, 16))
    for seq_len in (32, 64):
        of = Workload(
            phase=Phase.PREFILL, batch=3, seq_len=seq_len, q_heads=4, kv_heads=2, head_dim=16
        )
        query, key, value = seen_by_sdpa(monkeypatch, configured(of, "flash fp32"))
        assert query.shape == (3, 4, seq_len, 16)
        assert key.shape == value.shape == (3, 2, seq_len, 16)
    sizes = {"seq_len": (32, 64), "head_dim": (16, 32)}
    assert len(SearchSpace.model_validate({"axes": sizes}).workloads()) == 4


Plant = Callable[[pytest.MonkeyPatch], None]


def into_sdpa(**options: Any) -> Plant:
    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        def planted(*qkv: Tensor, **given: Any) -> Tensor:
            return sdpa(*qkv, **given | options)

        monkeypatch.setattr(F, "scaled_dot_product_attention", planted)

    return plant


def one_projection_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(*given: Any) -> Weights:
        weights = random_weights(*given)
        return Weights(q=weights.q, k=weights.q, v=weights.q, o=weights.o)

    monkeypatch.setattr("variants.layer.run.random_weights", planted)


def softmax_without_dim(monkeypatch: pytest.MonkeyPatch) -> None:
    softmax = torch.softmax

    def planted(scores: Tensor, dim: int, **options: Any) -> Tensor:
        if scores.ndim != 4:  # the reference's own
            return softmax(scores, dim, **options)
        with pytest.warns(UserWarning, match="Implicit dimension choice"):
            return F.softmax(scores, **options)

    monkeypatch.setattr(torch, "softmax", planted)


@pytest.mark.parametrize(
    ("backend", "plant"),
    [
        ("math", into_sdpa(attn_mask=None, is_causal=True)),  # top-left behind a cache
        ("math", into_sdpa(scale=1.0)),
        ("math", into_sdpa(dropout_p=0.1)),
        ("math", one_projection_for_all),
        ("eager", softmax_without_dim),
    ],
    ids=["top-left", "no scale", "dropout", "q for k and v", "softmax without dim"],
)
def test_a_planted_mistake_is_inaccurate(
    backend: str, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = configured(DECODE, f"{backend} fp32 static")
    assert evaluate(configuration).outcome is Outcome.MEASURED
    plant(monkeypatch)
    found = evaluate(configuration)
    assert found.outcome is Outcome.INACCURATE
    assert measured(found).relative_error > 0.1


def test_softmax_without_dim_takes_the_first_of_three() -> None:
    scores = torch.randn(2, 3, 4)
    with pytest.warns(UserWarning, match="Implicit dimension choice"):
        assert torch.equal(F.softmax(scores), scores.softmax(0))


def test_a_compiled_score_mod_does_not_compile_flex(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.attention.flex_attention import flex_attention

    @torch.compile
    def softcap(score: Tensor, batch: Tensor, head: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return torch.tanh(score / 2) * 2

    query = torch.randn(1, 2, 32, 16)
    names = operators(lambda: flex_attention(query, query, query, score_mod=softcap))
    # It looks compiled, and is not.
    assert any(name.startswith("Torch-Compiled Region") for name in names)
    assert "aten::bmm" in names
    assert backend_that_ran(names, "cpu") == "eager"
    of = DECODE.model_copy(update={"score_mod": "softcap:2"})
    configuration = configured(of, "flex fp32 static")
    found = evaluate(configuration)
    assert (found.outcome, measured(found).backend_ran) == (Outcome.MEASURED, "flex")
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    refused = evaluate(configuration)
    assert refused.outcome is Outcome.REFUSED
    assert refused.reason == "flex was asked for, eager ran"


# --- Quantization -------------------------------------------------------------------------------


class NotLinear(nn.Module):
    """A projection that dynamic quantization does not know."""

    in_features = out_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 8))


def test_a_quantization_that_replaces_nothing_is_an_error() -> None:
    holder = nn.Sequential(NotLinear())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        after = torch.ao.quantization.quantize_dynamic(holder, {nn.Linear}, dtype=torch.qint8)
    assert type(after[0]) is NotLinear  # and nothing was said
    assert after[0].weight.dtype is torch.float32
    with pytest.raises(QuantizationError, match="ptdq_int8 left 0 as NotLinear"):
        quantize_projections(holder, ("0",), "ptdq_int8")


def test_products_that_are_not_quantized_are_no_evidence() -> None:
    quantization = QUANTIZATIONS["ptdq_int8"]
    assert quantization.proven_by(["aten::addmm", "quantized::linear_dynamic"], "cpu")
    assert not quantization.proven_by(["aten::addmm", "aten::linear"], "cpu")


def test_quantization_is_of_projections_and_not_of_attention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = configured(DECODE, "flash fp32 static")
    quantized = configured(DECODE, "flash fp32 static", quantization="ptdq_int8")
    qkv = seen_by_sdpa(monkeypatch, quantized)
    assert [tensor.dtype for tensor in qkv] == [torch.float32] * 3
    run, original = Run(quantized, CPU, SEED), Run(plain, CPU, SEED)
    kernels = kernels_of_step(run)
    assert backend_that_ran(kernels, "cpu") == "flash"
    assert QUANTIZATIONS["ptdq_int8"].proven_by(kernels, "cpu")
    for name in PROJECTIONS:
        before, after = (
            projection_bytes(one.layer.get_submodule(name)) for one in (original, run)
        )
        assert before > 3 * after
    assert run.layer.cache_bytes == original.layer.cache_bytes


# --- Times and trials ---------------------------------------------------------------------------


def on_a_clock(monkeypatch: pytest.MonkeyPatch, cost_ms: Callable[[], float]) -> None:
    """Let each step take `cost_ms()` by the clock that measures."""
    now, step = [0], Run.step

    def timed(run: Run, index: int) -> Tensor:
        now[0] += int(cost_ms() * 1e6)
        return step(run, index)

    monkeypatch.setattr(Run, "step", timed)
    clock = SimpleNamespace(perf_counter_ns=lambda: now[0])
    monkeypatch.setattr("objectives.metrics.steps.time", clock)


def test_the_first_step_is_apart_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = itertools.chain([516.0], itertools.repeat(8.0))
    on_a_clock(monkeypatch, lambda: next(costs))
    latency = measured(evaluate(of_cache("flash fp32 static"))).latency
    assert latency.first_step_ms == 516
    assert (latency.low_ms, latency.latency_ms, latency.high_ms) == (8, 8, 8)
    assert latency.new_length_ms == 0


def test_latency_is_a_median_with_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers, costs = random.Random(0), []

    def cost() -> float:
        costs.append(numbers.uniform(6, 10) + (200 if numbers.random() < 0.1 else 0))
        return costs[-1]

    on_a_clock(monkeypatch, cost)
    configuration = of_cache("flash fp32 static")
    latency = measured(evaluator(sampling_s=60).evaluate(configuration)).latency
    samples = latency.host
    assert statistics.mean(costs) > 20  # a mean alone would be of the few that waited
    assert 6 < samples.low < samples.value < samples.high < 10
    assert 1 < samples.iqr < 3
    assert (samples.quantile, samples.stopped) == (0.5, "count")
    assert samples.count >= 400


@pytest.mark.parametrize("outcome", [Outcome.MEASURED, Outcome.OUT_OF_MEMORY])
def test_memory_is_given_back_when_nothing_holds_it(
    outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An emptied cache of the allocator keeps what a name, or a traceback, still points at.
    layers: list[weakref.ref[nn.Module]] = []
    alive: list[int] = []
    step = Run.step

    def spy(run: Run, index: int) -> Tensor:
        layers.append(weakref.ref(run.layer))
        if outcome is Outcome.OUT_OF_MEMORY:
            raise torch.OutOfMemoryError("tried to allocate 64 GiB. There is less.")
        return step(run, index)

    monkeypatch.setattr(Run, "step", spy)
    monkeypatch.setattr(
        "objectives.trial.evaluator.settle",
        lambda: alive.append(sum(layer() is not None for layer in layers)),
    )
    trials = evaluator()
    found = [trials.evaluate(of_cache("flash fp32 static")) for _ in range(2)]
    assert [evaluation.outcome for evaluation in found] == [outcome] * 2
    assert layers
    assert alive == [0, 0]


# --- Records ------------------------------------------------------------------------------------

BASE = Workload(seq_len=64, q_heads=4, kv_heads=2, head_dim=16)
CHOSEN = {"backend": "math", "precision": "fp32", "cache": "static"}
OTHERS: dict[str, object] = {
    "phase": "prefill",
    "batch": 8,
    "seq_len": 65,
    "new_tokens": 9,
    "q_heads": 8,
    "kv_heads": 4,
    "head_dim": 32,
    "hidden_size": 48,
    "layers": 2,
    "score_mod": "alibi",
}


def test_whatever_differs_is_in_the_key() -> None:
    # A result of batch 8 cannot pass for one of batch 4.
    assert OTHERS.keys() == Workload.model_fields.keys()
    keys = [Configuration.of(BASE, CHOSEN).key]
    for name, other in OTHERS.items():
        of = Workload.model_validate(BASE.model_dump() | {name: other})
        keys.append(Configuration.of(of, CHOSEN).key)
    others = 0
    for name, axis in VARIANT_AXES.items():
        chosen = CHOSEN | {"backend": axis.backends[0] if axis.backends else "math"}
        simplest = Configuration.of(BASE, chosen).variant.choices[name]
        different = [choice for choice in axis.registry if choice != simplest]
        keys += [Configuration.of(BASE, chosen | {name: choice}).key for choice in different]
        others += len(axis.registry) - 1
    assert len(keys) == 1 + len(OTHERS) + others
    assert len(set(keys)) == len(keys)


def test_a_study_holds_seed_versions_and_device() -> None:
    space, limits = SearchSpace(axes={"batch": (1,)}), Limits()
    with pytest.raises(ValidationError, match="seed"):
        Plan(space=space, limits=limits, sampler="tpe")  # type: ignore[call-arg]
    host, gpu = (read_environment(DEVICE_PROFILES[name].device) for name in ("cpu", "h100"))
    for environment in (host, gpu):
        assert environment.device.torch
        assert environment.python
        assert environment.goldilocks
    differing = {text.partition(":")[0] for text in host.differences(gpu)}
    assert {"device.kind", "device.name", "device.torch", "device.cudnn"} <= differing


def test_the_seed_decides_the_numbers() -> None:
    configuration = configured(DECODE, "flash fp32 static")
    first, again, other = (outs_of(Run(configuration, CPU, seed)) for seed in (1, 1, 2))
    assert all(map(torch.equal, first, again))
    assert relative_error(other[0], first[0]) > 0.1
    hidden = [random_hidden(DECODE, *of) for of in ((0, CPU, 1), (1, CPU, 1), (0, CPU, 2))]
    weights = [random_weights(DECODE, CPU, seed).q for seed in (1, 2)]
    for one, another in (*itertools.combinations(hidden, 2), weights):
        assert relative_error(one, another) > 1


def test_what_the_case_study_fixed_or_mixed_is_an_axis() -> None:
    several = {
        "phase": ("prefill", "decode"),
        "kv_heads": (2, 4),
        "score_mod": ("none", "alibi"),
        "precision": ("fp32", "bf16", "fp16"),
        "gqa": ("native", "repeat_kv"),
    }
    assert several.keys() <= AXES.keys()
    heads = {"q_heads": (4,), "backend": ("math",), "cache": ("static",)}
    space = SearchSpace.model_validate({"axes": several | heads})
    workloads = space.workloads()
    assert len(workloads) == 2 * 2 * 2
    assert {(of.phase, of.grouped) for of in workloads} == {
        (phase, grouped) for phase in (Phase.PREFILL, Phase.DECODE) for grouped in (True, False)
    }
    for of in workloads:
        assert len(space.variants(of)) == 3 * (2 if of.grouped else 1)
