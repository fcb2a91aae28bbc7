"""The bench on a job handler that measures nothing: which outcome, and by which process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from objectives.process import client as isolation
from objectives.process.client import ProcessUnavailable
from objectives.schema.environment import read_environment
from objectives.schema.evaluation import Outcome
from objectives.schema.limits import Limits
from objectives.trial import bench as bench_module
from objectives.trial import trial_handler
from objectives.trial.bench import DeviceBench
from objectives.trial.deadlines import LEAST_ELSE_S, MARGIN, SIGHTINGS, Deadlines
from tests.configurations import configured
from tests.objectives.trial import faulty_handler
from tests.objectives.trial.faulty_handler import ENVIRONMENT
from variants.configuration import Configuration
from variants.detect import DeviceMissingError
from variants.device import DEVICE_PROFILES, Device
from variants.workload import Workload

CPU, H100 = DEVICE_PROFILES["cpu"].device, DEVICE_PROFILES["h100"].device
DECODE = Workload(batch=2, seq_len=200, new_tokens=3, q_heads=4, head_dim=16)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[DeviceBench]:
    monkeypatch.setenv(ENVIRONMENT, read_environment(CPU).model_dump_json())
    monkeypatch.setattr(isolation, "_START_PAUSES_S", (0.0, 0.0))
    target = "tests.objectives.trial.faulty_handler:start_handler"
    bench = DeviceBench(Limits(deadline_s=5), seed=0, device="cpu", target=target)
    yield bench
    bench.close()


def due(fault: str | None) -> Configuration:
    """Return a configuration that is due this fault."""
    for seq_len in range(1, 100_000):
        of = configured(DECODE.model_copy(update={"seq_len": seq_len}), "math fp32 static")
        if faulty_handler.fault_of(of.model_dump(mode="json")) == fault:
            return of
    raise AssertionError(fault)


def test_out_of_memory_counts_once_a_fresh_process_confirmed_it(bench: DeviceBench) -> None:
    starts = bench.process.start_seconds
    assert bench.evaluate(due("device_memory")).outcome is Outcome.OUT_OF_MEMORY
    assert len(starts) == 1  # it was fresh
    confirmed = bench.evaluate(due("device_memory"))
    assert confirmed.outcome is Outcome.OUT_OF_MEMORY
    assert len(starts) == 2
    assert bench.evaluate(due(None)).outcome is Outcome.MEASURED
    assert len(starts) == 2  # the one that confirmed goes on
    cleared = bench.evaluate(due("memory_of_earlier_trials"))
    assert (cleared.outcome, cleared.reason) == (Outcome.MEASURED, "")
    assert len(starts) == 3
    assert cleared.seconds["worker start"] > 0


def test_what_the_first_process_has_tried_is_given_to_those_that_replace_it(
    bench: DeviceBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = {"int8_dynamic": "no kernel"}
    first = CPU.model_copy(update={"failed_quantizations": failed})
    monkeypatch.setenv(ENVIRONMENT, read_environment(first).model_dump_json())
    assert bench.device().failed_quantizations == failed
    # The next one would find none that fails, and be refused for it.
    monkeypatch.setenv(ENVIRONMENT, read_environment(CPU).model_dump_json())
    bench.process.kill()
    assert bench.evaluate(due(None)).outcome is Outcome.MEASURED
    assert bench.device().failed_quantizations == failed


@pytest.mark.parametrize("failed", [None, {}, {"int8_dynamic": "no kernel"}])
def test_a_job_handler_passes_on_what_was_tried(
    monkeypatch: pytest.MonkeyPatch, failed: dict[str, str] | None
) -> None:
    asked: list[object] = []

    def detect(*arguments: object) -> Device:
        asked.append(arguments)
        raise DeviceMissingError("that is enough")

    monkeypatch.setattr(trial_handler, "detect_device", detect)
    known = {} if failed is None else {"failed_quantizations": failed}
    greeting, _ = trial_handler.start_handler(
        {"plugins": [], "device": "cpu", **known}, lambda stage: None
    )
    assert greeting == {"missing": "that is enough"}
    assert asked == [("cpu", failed)]


def test_no_configuration_is_blamed_for_a_device_that_is_gone(
    bench: DeviceBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench.evaluate(due("killed")).outcome is Outcome.CRASHED
    monkeypatch.setenv(ENVIRONMENT, read_environment(H100).model_dump_json())
    with pytest.raises(ProcessUnavailable, match=r"the environment has changed: .*device\.name"):
        bench.evaluate(due(None))
    monkeypatch.setenv(ENVIRONMENT, "not JSON")
    with pytest.raises(ProcessUnavailable, match="JSONDecodeError"):
        bench.evaluate(due(None))
    monkeypatch.setenv(ENVIRONMENT, read_environment(CPU).model_dump_json())
    assert bench.evaluate(due(None)).outcome is Outcome.MEASURED


def test_a_device_that_was_never_there_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = DeviceBench(Limits(), seed=0, device="cpu")
    with pytest.raises(DeviceMissingError, match="none"):
        bench._welcome({"missing": "none"})
    bench._welcome({"environment": read_environment(CPU).model_dump(mode="json")})
    with pytest.raises(ProcessUnavailable, match="the device is gone: none"):
        bench._welcome({"missing": "none"})


def test_reasons_are_one_printable_line() -> None:
    assert bench_module._one_line("\n \x1b[2J\x07first\u202e line\r\nsecond") == "[2Jfirst line"
    assert len(bench_module._one_line("x" * 10_000)) == 500


def learnt(words: str, *seconds: float) -> Deadlines:
    deadlines = Deadlines(1000.0)
    for took in seconds:
        deadlines.learn(configured(DECODE, words), CPU, {"latency": took, "first step": took})
    return deadlines


def test_deadlines_are_learnt_from_the_longest_of_a_few() -> None:
    of, few = configured(DECODE, "math fp32 static"), [5.0] * (SIGHTINGS - 1)
    assert learnt("math fp32 static", *few).of(of, CPU)("latency") == 1000
    assert learnt("math fp32 static", *few, 7.0).of(of, CPU)("latency") == MARGIN * 7
    short = learnt("math fp32 static", 0.01, 0.01, 0.01).of(of, CPU)
    assert short("latency") == LEAST_ELSE_S < short("first step")
    assert short("a new stage") == 1000
    assert learnt("math fp32 static", 1e3, 1e3, 1e3).of(of, CPU)("latency") == 1000


def test_deadlines_of_one_kind_say_nothing_about_another() -> None:
    deadlines = learnt("math fp32 static", 1.0, 1.0, 1.0)
    for words in ("flash fp32 static", "math bf16 static"):
        assert deadlines.of(configured(DECODE, words), CPU)("latency") == 1000
    compiled = configured(DECODE, "math fp32 static", execution="compiled")
    assert deadlines.of(compiled, CPU)("first step") == 1000


def test_a_larger_configuration_is_not_held_to_what_smaller_ones_took() -> None:
    deadlines = learnt("math fp32 static", 1.0, 1.0, 1.0)
    larger, smaller = (
        configured(DECODE.model_copy(update={"seq_len": n}), "math fp32 static")
        for n in (400, 100)
    )
    assert deadlines.of(larger, CPU)("latency") == 1000
    assert deadlines.of(smaller, CPU)("latency") == LEAST_ELSE_S


def test_a_hang_ends_when_its_stage_is_late(
    bench: DeviceBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Deadlines, "of", lambda self, *of: lambda stage: 0.5)
    late = bench.evaluate(due("hangs_in_measure"))
    assert late.outcome is Outcome.TIMED_OUT
    assert late.reason == "stage 'latency' not done after 0.5 s, by what it took others"
