"""What `--json` prints: one document, nothing beside it, the numbers that tables show."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from search import cli, show_commands, verify_command
from search.documents.json_document import Document
from search.documents.space_document import SpaceDocument
from search.documents.study_document import StudyDocument
from search.documents.support_document import SupportDocument
from search.documents.verify_document import VerifyDocument
from search.json_reference import COMMAND, DOCUMENTS, _parts_of, json_markdown
from studies.results.labels import milliseconds, size, speed
from studies.results.results import read_results
from studies.study.study import load_study, open_storage
from tests.fake_bench import FakeBench
from tests.search.fake_cli import fake_devices
from tests.search.test_support import Declared
from tests.studies.export.test_verification import OtherBench

DOCS = Path(__file__).resolve().parents[2] / "docs" / "json.md"
SMALL = "--batch 1,4 --seq-len 512 --score-mod none --trials 8"


@pytest.fixture(autouse=True)
def patch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.chdir(tmp_path)
    with fake_devices() as patch:
        yield patch


def typed(line: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["search", *line.split()])
        return cli.main()


def document(
    line: str, kind: type[Document], capsys: pytest.CaptureFixture[str], status: int = 0
) -> Any:
    """Run a command, and return the one document that it printed."""
    capsys.readouterr()
    assert typed(line) == status
    printed = capsys.readouterr().out
    return kind.model_validate_json(printed)  # extra keys and text beside it are errors


def test_a_run_prints_its_document_alone_and_the_rest_on_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert typed(f"run --json {SMALL}") == 0
    captured = capsys.readouterr()
    found = StudyDocument.model_validate_json(captured.out)
    assert (found.command, found.trials, found.schema_version) == ("run", 8, 1)
    assert found.run is not None
    assert (found.run.trials, found.run.interrupted) == (8, False)
    assert any(" export " in line for line in found.run.next)
    for words in ("search space", "/8", "balanced winners", "next:"):
        assert words in captured.err
    shown = document("show --json", StudyDocument, capsys)
    assert shown.command == "show"
    same = {"command", "run"}
    assert shown.model_dump(exclude=same) == found.model_dump(exclude=same)


def test_numbers_are_those_that_the_tables_show(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show_commands.console, "width", 160)
    typed(f"run {SMALL}")
    found = document("show --json", StudyDocument, capsys)
    assert typed("show --all") == 0
    shown = capsys.readouterr().out.replace("\N{NO-BREAK SPACE}", " ")
    results = read_results(load_study(open_storage("sqlite:///goldilocks.db"), None))
    assert [each.workload["batch"] for each in found.workloads] == [1, 4]
    for workload, result in zip(found.workloads, results.workloads, strict=True):
        assert len(workload.front) == len(result.front)
        assert workload.winners.keys() == result.winners.keys() != set()
        assert milliseconds(workload.default.latency_ms) in shown
        for winner in workload.winners.values():
            assert winner.in_turns
            assert milliseconds(winner.latency_ms) in shown
            assert speed(1 / winner.faster) in shown
            assert size(1 / winner.smaller) in shown
            if winner.trial is not None:
                assert winner.faster_low <= winner.faster <= winner.faster_high


def test_quiet_and_json_together_print_the_document_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert typed(f"run --json --quiet {SMALL}") == 0
    captured = capsys.readouterr()
    assert StudyDocument.model_validate_json(captured.out).trials == 8
    assert captured.err == ""


def test_a_quiet_run_prints_the_verdict_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(f"run --quiet {SMALL}") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.lstrip().startswith("On NVIDIA H100")
    for words in ("search space", "/8", "where 0", "outcomes"):
        assert words not in captured.out


def test_a_quiet_run_still_warns(
    patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from search import run_command

    patch.setattr(run_command, "foreign_gpu_processes", lambda indices: ["python (1234)"])
    assert typed(f"run --quiet {SMALL}") == 0
    assert "warning: the GPU is also used by python (1234)" in capsys.readouterr().out


def test_quiet_commands_that_write_files_print_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    typed(f"run --quiet {SMALL}")
    capsys.readouterr()
    for line in ("export --output b.json", "report", "table --output t.csv"):
        assert typed(f"{line} --quiet") == 0
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == ("", "")
    assert {"b.json", "report.html", "t.csv"} <= {path.name for path in Path().iterdir()}


def test_a_dry_run_prints_the_space(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(f"run --dry-run --json {SMALL}", SpaceDocument, capsys)
    assert (found.workloads, found.trials) == (2, 8)
    assert found.axes["batch"] == (1, 4)
    assert found.possible > 8
    assert sum(found.impossible.values()) > 0
    assert found.expected_s > 0


def test_support_prints_what_runs_and_why_not_the_rest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = document("support --device-profile h100 --json", SupportDocument, capsys)
    assert found.tried is None
    runs = {tuple(place.choices.values()): place for place in found.core}
    assert runs["flash", "bf16", "none"].precisions == ("bf16",)
    assert runs["flash", "fp32", "none"].reasons == ("backend flash takes bf16 or fp16, not fp32",)
    for place in (*found.core, *found.others):
        assert place.runs == bool(place.precisions) == (not place.reasons)
    assert typed("support --device-profile h100 --json --markdown") == 2


@pytest.mark.parametrize(("runs", "status"), [("", 0), ("flash/fp32", 1)])
def test_support_that_was_tried_says_what_came_of_it(
    runs: str, status: int, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    patch.setattr(show_commands, "DeviceBench", lambda *args, **kwargs: Declared(runs=runs))
    found = document("support --check --json", SupportDocument, capsys, status)
    assert len(found.tried) > 50
    wrong = [one for one in found.tried if one.disagreement]
    assert bool(wrong) == bool(status)
    assert all("it runs, declared not to" in one.disagreement for one in wrong)


@pytest.mark.parametrize(("memory", "status"), [(1.0, 0), (1.5, 1)])
def test_verify_prints_each_claim_and_what_came_of_it(
    memory: float,
    status: int,
    patch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    typed(f"run --quiet {SMALL}")
    typed("export --output b.json --quiet")
    bench: FakeBench = OtherBench(memory=memory)
    patch.setattr(verify_command, "DeviceBench", lambda *args, **kwargs: bench)
    found = document("verify b.json --json", VerifyDocument, capsys, status)
    assert (found.broken > 0) == (status == 1)
    claims = [claim for choice in found.choices for claim in choice.claims]
    assert len(claims) == found.claims > 0
    assert sum(claim.state == "broken" for claim in claims) == found.broken
    assert all(bool(claim.why) == (claim.state == "broken") for claim in claims)
    assert [each.new_ms is not None for each in found.defaults] == [True, True]
    assert typed("verify b.json --quiet") == status
    (line,) = capsys.readouterr().out.splitlines()
    assert "claims" in line


@pytest.mark.parametrize(
    "line", ["show --json", "run --json --backend flsh", "verify absent.json --json"]
)
def test_wrong_usage_leaves_standard_output_empty(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(line) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")


def test_the_stored_reference_is_up_to_date() -> None:
    assert DOCS.read_text(encoding="utf-8") == json_markdown(), f"out of date: {COMMAND}"


def test_every_key_of_every_document_is_described() -> None:
    models = {part for kind in DOCUMENTS.values() for part in (kind, *_parts_of(kind))}
    assert len(models) > 10
    for model in models:
        assert all(field.description for field in model.model_fields.values()), model
        json.dumps(model.model_json_schema())
