"""The trial on this machine's CPU: outcomes, and memory against known answers."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import objectives.trial.evaluator as evaluate_module
import objectives.trial.outcomes as outcomes_module
import objectives.trial.stalls as stalls_module
from objectives.metrics.accuracy import relative_error
from objectives.metrics.memory import MIB
from objectives.schema.evaluation import Evaluation, Latency, Outcome
from objectives.schema.limits import Limits
from objectives.trial.bench import DeviceBench
from objectives.trial.evaluator import Evaluator
from tests.configurations import configured
from variants.backends import BACKENDS
from variants.configuration import Configuration, default_variant
from variants.detect import detect_device
from variants.workload import Phase, Workload

CPU = detect_device("cpu")
DECODE = Workload(batch=2, seq_len=200, new_tokens=3, q_heads=4, head_dim=16)
PREFILL = Workload(phase=Phase.PREFILL, batch=1, seq_len=512, q_heads=2, head_dim=32)


def evaluate(workload: Workload, variant: str, **limits: float) -> Evaluation:
    evaluator = Evaluator(CPU, Limits(sampling_s=0.02, **limits), seed=0)
    return evaluator.evaluate(configured(workload, variant))


def peak_mib(workload: Workload, variant: str) -> float:
    memory = evaluate(workload, variant).peak_memory_mib
    assert memory is not None
    return memory


def test_measured_has_all_numbers() -> None:
    evaluation = evaluate(DECODE, "flash fp32 static")
    assert (evaluation.outcome, evaluation.reason) == (Outcome.MEASURED, "")
    measured = evaluation.measurements
    assert measured is not None
    latency, memory = measured.latency, measured.memory
    assert latency.low_ms <= latency.latency_ms <= latency.high_ms
    assert (latency.bound, latency.gpu, latency.held) == ("host", None, None)
    assert measured.backend_ran == "flash"
    assert 0 < measured.relative_error < 1e-5
    parts = memory.weights_mib + memory.cache_mib + memory.transient_mib
    assert memory.peak_mib == pytest.approx(parts)
    assert memory.weights_mib * MIB == 4 * 64 * 64 * 4
    # 203 tokens and the one that keeps its slices from being contiguous.
    assert memory.cache_mib * MIB == 2 * 2 * 4 * 204 * 16 * 4
    assert Evaluation.model_validate_json(evaluation.model_dump_json()) == evaluation


def test_default_records_what_it_resolved_to() -> None:
    evaluator = Evaluator(CPU, Limits(sampling_s=0.02), seed=0)
    of = Configuration(workload=DECODE, variant=default_variant(DECODE, CPU))
    measured = evaluator.evaluate(of).measurements
    assert of.variant.backend == "auto"
    assert measured is not None
    assert measured.backend_ran == "flash"


def test_error_above_the_limit_is_inaccurate_with_its_numbers() -> None:
    evaluation = evaluate(DECODE, "math bf16 static", max_error=1e-4)
    assert evaluation.outcome is Outcome.INACCURATE
    assert "is above 0.0001" in evaluation.reason
    assert evaluation.measurements is not None


def test_peak_above_the_limit_is_out_of_memory() -> None:
    evaluation = evaluate(PREFILL, "math fp32", max_memory_gib=0.001)
    assert evaluation.outcome is Outcome.OUT_OF_MEMORY
    assert "above the limit of 0.001 GiB" in evaluation.reason


def test_another_kernel_than_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_module, "backend_that_ran", lambda *given: "math")
    evaluation = evaluate(DECODE, "flash fp32 static")
    assert evaluation.outcome is Outcome.REFUSED
    assert evaluation.reason == "flash was asked for, math ran"


@pytest.mark.parametrize(
    ("gpu_ms", "datasheet", "outcome"),
    [
        (0.94, True, Outcome.IMPLAUSIBLE),
        (0.96, True, Outcome.MEASURED),
        (0.94, False, Outcome.MEASURED),  # of rates that are only measured, nothing is sure
    ],
)
def test_faster_than_the_datasheet_allows_is_implausible(
    monkeypatch: pytest.MonkeyPatch, gpu_ms: float, datasheet: bool, outcome: Outcome
) -> None:
    real = evaluate_module.measure_latency

    def claimed(*args: Any, **kwargs: Any) -> Latency:
        latency = real(*args, **kwargs)
        gpu = latency.host.model_copy(update={"value": gpu_ms})
        return latency.model_copy(update={"gpu": gpu})

    bound = SimpleNamespace(latency_ms=1.0, datasheet=datasheet)
    monkeypatch.setattr(evaluate_module, "measure_latency", claimed)
    monkeypatch.setattr(outcomes_module, "bound", lambda configuration, device: bound)
    found = evaluate(DECODE, "flash fp32 static")
    assert found.outcome is outcome
    assert ("below the bound of 1 ms" in found.reason) == (outcome is Outcome.IMPLAUSIBLE)


def stalls(monkeypatch: pytest.MonkeyPatch, *costs: float) -> Callable[[], int]:
    """Let new lengths cost so much in one look after the other. Returns what counts the looks."""
    left = iter(costs)
    monkeypatch.setattr(evaluate_module, "new_length_ms", lambda *given: next(left))
    return lambda: len(costs) - len(list(left))


def test_a_stall_is_believed_where_other_lengths_stall_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = stalls(monkeypatch, 60.0, 58.0)
    stalling = evaluate(DECODE, "math fp32 static")
    assert stalling.outcome is Outcome.STALLS
    assert stalling.reason == "each new length costs 58 ms, above 5 ms"
    assert stalling.seconds["second look"] > 0
    assert counted() == 2


def test_what_does_not_repeat_is_no_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[Configuration] = []
    real = evaluate_module.Run

    def build(of: Configuration, *given: Any) -> Any:
        looked_at.append(of)
        return real(of, *given)

    monkeypatch.setattr(evaluate_module, "Run", build)
    counted = stalls(monkeypatch, 60.0, 0.25)
    measured = evaluate(DECODE, "math fp32 static")
    assert (measured.outcome, counted()) == (Outcome.MEASURED, 2)
    assert measured.measurements is not None
    assert measured.measurements.latency.new_length_ms == 0.25
    first, second = (of.workload for of in looked_at)
    lengths = [range(of.seq_len, of.capacity) for of in (first, second)]
    assert not set(lengths[0]) & set(lengths[1])
    assert second.new_tokens >= 4


def test_a_stall_stands_where_there_is_no_room_for_a_second_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stalls(monkeypatch, 60.0)
    real, built = evaluate_module.Run, []

    def build(*given: Any) -> Any:
        built.append(given)
        if len(built) > 1:
            raise torch.OutOfMemoryError
        return real(*given)

    monkeypatch.setattr(evaluate_module, "Run", build)
    assert evaluate(DECODE, "math fp32 static").outcome is Outcome.STALLS


def test_a_stall_is_remembered_from_the_trial_that_paid_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planning = {**BACKENDS, "flash": replace(BACKENDS["flash"], plans_each_shape=True)}
    monkeypatch.setattr(stalls_module, "BACKENDS", planning)
    stalls(monkeypatch, 60.0, 60.0, 0.0, 0.0, 0.0)
    evaluator = Evaluator(CPU, Limits(sampling_s=0.02), seed=0)
    default = Configuration(workload=DECODE, variant=default_variant(DECODE, CPU))
    same_kernel = configured(DECODE, "flash fp32 static")
    outcomes = [evaluator.evaluate(c).outcome for c in (default, same_kernel)]
    assert outcomes == [Outcome.STALLS, Outcome.STALLS]
    # Other lengths, and a backend that plans nothing, have nothing to remember.
    for other in (
        configured(DECODE.model_copy(update={"seq_len": 100}), "flash fp32 static"),
        configured(DECODE, "math fp32 static"),
    ):
        assert evaluator.evaluate(other).outcome is Outcome.MEASURED


def test_math_holds_the_score_matrix_and_flash_does_not() -> None:
    scores_mib = 2 * 512 * 512 * 4 / MIB
    assert peak_mib(PREFILL, "math fp32") > 2 * scores_mib
    assert peak_mib(PREFILL, "flash fp32") < scores_mib
    twice = PREFILL.model_copy(update={"seq_len": 1024})
    growth = peak_mib(twice, "math fp32") / peak_mib(PREFILL, "math fp32")
    assert 3 < growth < 4.1  # quadratic
    four_times = PREFILL.model_copy(update={"seq_len": 2048})
    growth = peak_mib(four_times, "flash fp32") / peak_mib(twice, "flash fp32")
    assert growth < 2.1  # linear


def test_concat_needs_old_and_new_at_once_and_static_does_not() -> None:
    long = DECODE.model_copy(update={"seq_len": 2000})
    cache_mib = 2 * 2 * 4 * 2003 * 16 * 4 / MIB
    difference = peak_mib(long, "flash fp32 concat") - peak_mib(long, "flash fp32 static")
    assert 0.4 * cache_mib < difference < 0.6 * cache_mib  # keys, or values, twice


def test_peak_bytes_repeat_exactly_in_any_order() -> None:
    evaluator = Evaluator(CPU, Limits(sampling_s=0.01), seed=0)
    variants = ["flash fp32 static", "math bf16 concat", "eager fp32 none"]
    seen: dict[str, set[float | None]] = {}
    for order in (variants, variants[::-1], variants):
        for variant in order:
            evaluation = evaluator.evaluate(configured(DECODE, variant))
            seen.setdefault(variant, set()).add(evaluation.peak_memory_mib)
    assert all(len(peaks) == 1 for peaks in seen.values())


@pytest.mark.parametrize(("least_s", "freezes"), [(-1.0, True), (60.0, False)])
def test_what_a_long_collection_visited_is_not_visited_again(
    monkeypatch: pytest.MonkeyPatch, least_s: float, freezes: bool
) -> None:
    evaluator = Evaluator(CPU, Limits(), seed=0)
    monkeypatch.setattr(evaluate_module, "LONG_COLLECTION_S", least_s)
    stays = [[] for _ in range(1000)]  # type: ignore[var-annotated]
    before = gc.get_freeze_count()
    evaluator.free(compiled=False)
    assert (gc.get_freeze_count() >= before + len(stays)) is freezes


def test_layers_multiply_what_stays_and_not_what_passes() -> None:
    one = evaluate(DECODE, "flash fp32 static").measurements
    four = evaluate(DECODE.model_copy(update={"layers": 4}), "flash fp32 static").measurements
    assert one is not None
    assert four is not None
    stays = one.memory.weights_mib + one.memory.cache_mib
    assert four.memory.peak_mib == pytest.approx(4 * stays + one.memory.transient_mib)


def test_nan_is_an_infinite_error_and_survives_json() -> None:
    good = torch.ones(1, 2, 3)
    assert relative_error(torch.full((1, 2, 3), math.nan), good) == math.inf
    assert relative_error(good * 1.5, good) == pytest.approx(0.5)
    evaluation = evaluate(DECODE, "flash fp32 static")
    assert evaluation.measurements is not None
    broken = evaluation.model_copy(
        update={
            "measurements": evaluation.measurements.model_copy(update={"relative_error": math.inf})
        }
    )
    assert Evaluation.model_validate_json(broken.model_dump_json()) == broken
    assert Evaluation.model_validate(broken.model_dump(mode="json")) == broken


@pytest.fixture
def bench() -> Iterator[DeviceBench]:
    # On a busy machine any step may seem to stall.
    bench = DeviceBench(Limits(sampling_s=0.02, max_stall_ms=1e6), seed=0, device="cpu")
    yield bench
    bench.close()


def test_too_large_for_the_machine_is_out_of_memory_and_the_next_is_measured(
    bench: DeviceBench,
) -> None:
    # Decode without a cache: the reference is small, the score matrix is 64 GiB and more.
    huge = Workload(batch=1, seq_len=32768, new_tokens=1, q_heads=16, kv_heads=1, head_dim=8)
    if bench.device().memory_bytes > 60 * 2**30:
        huge = huge.model_copy(update={"seq_len": 131072})
    evaluation = bench.evaluate(configured(huge, "eager fp32 none"))
    assert evaluation.outcome is Outcome.OUT_OF_MEMORY
    assert "allocate" in evaluation.reason
    assert bench.evaluate(configured(DECODE, "math fp32 static")).outcome is Outcome.MEASURED


def test_a_worker_that_is_killed_is_a_crash_and_the_next_is_measured() -> None:
    import os
    import signal

    def kill(stage: str) -> None:
        if stage == "latency" and not crashes:
            assert bench.process.pid is not None
            os.kill(bench.process.pid, signal.SIGKILL)
            crashes.append(stage)

    crashes: list[str] = []
    bench = DeviceBench(Limits(sampling_s=0.02), seed=0, device="cpu", on_stage=kill)
    try:
        crashed = bench.evaluate(configured(DECODE, "math fp32 static"))
        measured = bench.evaluate(configured(DECODE, "math fp32 static"))
    finally:
        bench.close()
    assert crashed.outcome is Outcome.CRASHED
    assert "in stage 'latency' (SIGKILL)" in crashed.reason
    assert measured.outcome is Outcome.MEASURED
    assert measured.seconds["worker start"] > 0
