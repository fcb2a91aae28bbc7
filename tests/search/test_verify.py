"""The verify command, on a bench that measures nothing."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage

import search.verify_command
from objectives.roofline.bound import DATASHEET, Peaks
from objectives.schema.comparison import Comparison
from objectives.schema.evaluation import Evaluation, Outcome
from search.cli import main
from studies.export.document import build_export
from studies.results.results import read_results
from tests.fake_bench import FakeBench
from tests.studies.export.test_verification import ONE, OtherBench, SpreadBench, exported
from tests.studies.session.test_session import run, session
from variants.configuration import Configuration


@pytest.fixture
def verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    path = tmp_path / "best.json"
    path.write_text(exported(finals=True).model_dump_json())

    def run(bench: FakeBench, *options: str) -> int:
        monkeypatch.setattr(search.verify_command, "DeviceBench", lambda *args, **kwargs: bench)
        monkeypatch.setattr(sys, "argv", ["search", "verify", str(path), *options])
        return main()

    return run


def test_what_holds_is_status_0_with_old_and_new_side_by_side(
    verify: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(FakeBench()) == 0
    shown = capsys.readouterr().out
    assert "claims hold\n" in shown
    assert "broken" not in shown
    (workload,) = exported(finals=True).workloads
    best = workload.chosen["lowest_latency"]
    assert shown.count(f"{best.speedup:.3f}") == 2


def test_a_broken_claim_is_status_1(
    verify: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(OtherBench(memory=1.5)) == 1
    shown = capsys.readouterr().out
    assert "broken: grown by" in " ".join(shown.replace("│", " ").split())
    assert "[red]" not in shown
    assert "50.0%" in shown
    assert "claims no longer hold" in shown


class Restless(SpreadBench):
    """At first times vary by a factor of 2500, from the second try on as `later` says."""

    def __init__(self, later: float) -> None:
        super().__init__(50.0)
        self._later = later

    def compare(self, configurations: Sequence[Configuration]) -> Comparison:
        said = super().compare(configurations)
        self._spread = self._later
        return said


@pytest.mark.parametrize(("later", "status"), [(50.0, 3), (1.001, 0)])
def test_what_is_unclear_is_measured_again_and_has_a_status_of_its_own(
    verify: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    later: float,
    status: int,
) -> None:
    monkeypatch.setattr(search.verify_command.console, "width", 160)
    bench = Restless(later)
    assert verify(bench) == status
    assert len(bench.compared) == 2
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "unclear, measured again" in shown
    assert ("no claim is broken" in shown) is (status == 3)
    assert ("times the speed claimed" in shown) is (status == 3)
    assert ("stop what else runs on this machine" in shown) is (status == 3)


def test_another_gpu_is_refused_unless_it_shall_be_anyway(
    verify: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    other = FakeBench(profile="h200")
    assert verify(other) == 2
    assert other.calls == []
    errors = capsys.readouterr().err
    assert "was measured on NVIDIA H100 80GB HBM3, this is NVIDIA H200" in errors
    assert errors.count("\n") == 1
    assert verify(other, "--anyway") == 0
    assert "differs: device.name" in capsys.readouterr().out


class HostBench(FakeBench):
    """The GPU binds the default, which may fail, the host all others; and that may be slow."""

    def __init__(
        self, *, step: float = 1.0, yardstick: float = 1.0, default: Outcome = Outcome.MEASURED
    ) -> None:
        super().__init__(fails={"auto": default})
        self._step, self._yardstick = step, yardstick

    def peaks(self) -> Peaks:
        return replace(DATASHEET["NVIDIA H100"], yardstick_ms=0.3)

    def _answer(self, configuration: Configuration) -> Evaluation:
        found = super()._answer(configuration)
        if found.measurements is None:
            return found
        latency = found.measurements.latency.at_host_speed(self._host(configuration))
        slow = {"yardstick_ms": 0.3 * self._yardstick, "host_speed": None}
        latency = latency.model_copy(update=slow)
        measured = found.measurements.model_copy(update={"latency": latency})
        return found.model_copy(update={"measurements": measured})

    def _host(self, configuration: Configuration) -> float:
        return self._step * (0.01 if configuration.variant.backend == "auto" else 1.01)

    def compare(self, configurations: Sequence[Configuration]) -> Comparison:
        plain = FakeBench(fails=self.fails).compare(configurations)
        slow = tuple(
            tuple(
                one.model_copy(
                    update={
                        "host_ms": tuple(self._host(one.configuration) * ms for ms in one.host_ms)
                    }
                )
                for one in group
            )
            for group in plain.groups
        )
        return plain.model_copy(update={"groups": slow})


@pytest.mark.parametrize("default", [Outcome.MEASURED, Outcome.CRASHED])
@pytest.mark.parametrize(
    ("step", "yardstick", "status"),
    [(1.0, 1.0, 0), (2.0, 2.0, 0), (2.0, 1.0, 1)],
    ids=["as it was", "all of the host is slow", "the step is slow"],
)
def test_a_slow_host_breaks_no_claim(
    verify: Callable[..., int],
    tmp_path: Path,
    default: Outcome,
    step: float,
    yardstick: float,
    status: int,
) -> None:
    of = session(InMemoryStorage(), HostBench(default=default), axes=ONE)
    run(of, 12)
    (result,) = read_results(of.study).workloads
    of.retiming.measure(result)
    document = build_export(read_results(of.study))
    (tmp_path / "best.json").write_text(document.model_dump_json())
    assert verify(HostBench(step=step, yardstick=yardstick, default=default)) == status


def test_what_was_not_timed_in_turns_is_said_to_be_unchecked(
    verify: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    class Alone(FakeBench):
        def compare(self, configurations: Sequence[Configuration]) -> Comparison:
            missing = {each.key: "no room" for each in configurations}
            return Comparison(groups=(), missing=missing, seconds=0.0)

    assert verify(Alone()) == 0
    said = re.search(r"all (\d+) claims hold, (\d+) more could not", capsys.readouterr().out)
    assert said is not None
    (workload,) = exported(finals=True).workloads
    assert int(said[1]) >= 2 * len(workload.configurations)  # memory and error of each
    assert int(said[2]) >= 1  # its speed


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("configurations.0.measurements.memory.peak_mib", 0.0, "peak_mib: Input should be"),
        ("configurations.0.measurements.memory.peak_mib", "NaN", "peak_mib: Input should be"),
        ("configurations.0.measurements.latency.latency_ms", 0.0, "latency_ms: Input should be"),
        ("configurations.0.measurements.relative_error", "Infinity", "relative_error must be"),
        ("configurations.0.speedup", 0.0, "greater than"),
        ("default.measurements.latency.high_ms", 0.0, "high_ms: Input should be"),
        ("default.measurements.latency.yardstick_ms", 1e30, "yardstick_ms: Input should be"),
        ("configurations.0.measurements.latency.host_speed", -1.0, "host_speed: Input should be"),
    ],
)
def test_numbers_that_nobody_measured_are_refused(
    place: str,
    value: object,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = exported(finals=False).model_dump(mode="json")
    *parents, last = place.split(".")
    where = document["workloads"][0]
    for name in parents:
        where = where[int(name) if name.isdigit() else name]
    assert last in where
    where[last] = value
    (tmp_path / "best.json").write_text(json.dumps(document))
    monkeypatch.setattr(sys, "argv", ["search", "verify", str(tmp_path / "best.json")])
    assert main() == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert errors.count("\n") == 1


def test_a_file_without_choices_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = exported(finals=False).model_dump(mode="json") | {"single": {}}
    document["workloads"][0]["choices"] = {}
    (tmp_path / "best.json").write_text(json.dumps(document))
    monkeypatch.setattr(sys, "argv", ["search", "verify", str(tmp_path / "best.json")])
    assert main() == 2
    assert "nothing to verify" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[" * 5000, '{"schema_version": 1}', "\udcff"])
def test_what_is_no_export_is_one_line(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    for given in (path, tmp_path / "absent.json"):
        monkeypatch.setattr(sys, "argv", ["search", "verify", str(given)])
        assert main() == 2
        errors = capsys.readouterr().err
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1
