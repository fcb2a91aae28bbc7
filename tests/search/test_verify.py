"""The verify command, on a bench that measures nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import search.verify
from search.cli import main
from tests.fake_bench import FakeBench
from tests.studies.test_claims import OtherBench, exported


@pytest.fixture
def verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    path = tmp_path / "best.json"
    path.write_text(exported(finals=True).model_dump_json())

    def run(bench: FakeBench, *options: str) -> int:
        monkeypatch.setattr(search.verify, "DeviceBench", lambda *args, **kwargs: bench)
        monkeypatch.setattr(sys, "argv", ["search", "verify", str(path), *options])
        return main()

    return run


def test_what_holds_is_status_0_with_old_and_new_side_by_side(
    verify: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(FakeBench()) == 0
    shown = capsys.readouterr().out
    assert "all claims hold" in shown
    (workload,) = exported(finals=True).workloads
    assert workload.finals is not None
    best = workload.finals.of(workload.choices["lowest_latency"].configuration.variant.key)
    assert best is not None
    assert shown.count(f"{best.latency.ratio:.3f}") == 2


def test_a_broken_claim_is_status_1(
    verify: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(OtherBench(memory=1.5)) == 1
    shown = capsys.readouterr().out
    assert "broken" in shown
    assert "50.0%" in shown
    assert "claims no longer hold" in shown


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
