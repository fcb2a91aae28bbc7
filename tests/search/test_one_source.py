"""All outputs of one study: a number that occurs twice occurs with one value."""

from __future__ import annotations

import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from search.export_command import print_pick
from search.views.screen import screen_lines
from search.views.verdict import print_front, print_verdict
from studies.dashboard.note import summary_note
from studies.export.document import build_export
from studies.report.page import render_report
from studies.report.rows import workload_sections
from studies.results.front import WorkloadResult
from studies.results.labels import (
    mebibytes,
    milliseconds,
    size,
    speed,
    trial_name,
    variant_label,
    workload_label,
)
from studies.results.results import Results
from tests.stored_studies import STUDIES, results_of
from tests.studies.report.test_report import Page
from variants.configuration import Configuration

# What is said of a configuration: (workload's label, trial's name or variant, quantity) and text.
Said = Iterator[tuple[str, str, str, str]]
_DOUBTFUL = re.compile(r"^(same|unclear) ")


def _cells(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        yield re.split(r"\s{2,}", line.strip())


def _printed(results: Results, *, what: str) -> str:
    console = Console(file=io.StringIO(), width=200)
    if what == "verdict":
        print_verdict(console, results)
    elif what == "front":
        for result in results.workloads:
            print_front(console, result, set(results.plan.space.searched))
    else:
        print_pick(console, build_export(results), results)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _numbers(label: str, who: str, cells: list[str]) -> Said:
    """Latency, gain, memory and gain of a row."""
    for quantity, cell in zip(("ms", "faster", "MiB", "smaller"), cells, strict=True):
        if cell:
            yield label, who, quantity, _DOUBTFUL.sub("", cell)


def _of_verdict(results: Results, labels: list[str]) -> Said:
    label = ""
    for cells in _cells(_printed(results, what="verdict")):
        if cells[0] in labels:
            label = cells[0]
        elif label and cells[0] == "default" and len(cells) == 6:
            yield label, cells[1].partition("→")[0], "ms", cells[2]
            yield label, cells[1].partition("→")[0], "MiB", cells[4]
        elif label and len(cells) == 8:
            name = re.sub(r"^the default \((.*)\)$", r"\1", cells[1])
            yield from _numbers(label, _plain(name), [cells[2], *cells[4:7]])


def _of_fronts(results: Results, labels: list[str]) -> Said:
    label = ""
    for cells in _cells(_printed(results, what="front")):
        if cells[0].startswith("front of "):
            label = cells[0].removeprefix("front of ")
        elif label and (cells[0].startswith("#") or cells[0] == "default"):
            yield from _numbers(label, cells[0], [cells[2], *cells[4:7]])
            yield label, cells[0], "roofline", cells[8]


def _of_export(results: Results, labels: list[str]) -> Said:
    for cells in _cells(_printed(results, what="export")):
        if cells[0] in labels:
            yield from _numbers(cells[0], _plain(cells[1]), cells[2:6])


def _of_note(results: Results, labels: list[str]) -> Said:
    label = ""
    for line in summary_note(results).replace("\\", "").splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if line.startswith("| ") and line.count(" | ") >= 8:
            label = line.split(" | ")[0].strip("| ") or label
            cells = [cell.strip() for cell in line.split("|")[1:-1]]
            if cells[3] == "default" or cells[3].startswith("#"):
                yield from _numbers(label, cells[3], cells[4:8])


def _of_report(results: Results, page: Page) -> Said:
    data = page.json("data")
    for point in data["trials"]:
        label = data["workloads"][point["workload"]]["label"]
        if "latency" in point:
            who = trial_name(point["trial"])
            yield label, who, "ms", milliseconds(point["latency"])
            yield label, who, "MiB", mebibytes(point["memory"])
            yield label, who, "gpu ms", milliseconds(point["gpu"])
            if point["roofline"] is not None:
                yield label, who, "roofline", f"{100 * point['roofline']:.2g} %"
    for section in workload_sections(results):
        for row in (*section.rows, *section.verdict):
            yield from _numbers(
                section.label, row.trial, [row.latency, row.faster, row.memory, row.smaller]
            )
            yield section.label, row.trial, "gpu ms", row.gpu
            yield section.label, row.trial, "roofline", row.roofline


def _of_json(results: Results) -> Said:
    document = json.loads(build_export(results).model_dump_json())
    varying = set(results.plan.space.searched)
    for place, workload in enumerate(document["workloads"]):
        label = workload_label(results.workloads[place].workload, varying)
        default = workload["default"]["measurements"]
        yield label, "default", "ms", milliseconds(default["latency"]["latency_ms"])
        key = results.workloads[place].default.configuration.variant.key
        numbers = {c.key: trial_name(c.number) for c in results.workloads[place].measured}
        for one in (workload["finals"] or {"finalists": []})["finalists"]:
            who = "default" if one["variant"] == key else numbers[one["variant"]]
            yield label, who, "ms", milliseconds(one["latency_ms"])
            yield label, who, "gpu ms", milliseconds(one["gpu_ms"])
            yield label, who, "faster", speed(one["latency"]["ratio"])
        singles = [
            choice
            for single in document["single"].values()
            for choice in single["choices"]
            if Configuration.model_validate(choice["configuration"]).workload
            == results.workloads[place].workload
        ]
        for choice in (*workload["choices"].values(), *workload["front"], *singles):
            yield from _of_choice(label, choice, default)


def _of_choice(label: str, choice: Any, default: Any) -> Said:
    who, latency = trial_name(choice["trial"]), choice["measurements"]["latency"]
    yield label, who, "ms", milliseconds(latency["latency_ms"])
    yield label, who, "gpu ms", milliseconds(latency["gpu"]["value"])
    yield label, who, "MiB", mebibytes(choice["measurements"]["memory"]["peak_mib"])
    yield label, who, "faster", speed(choice["latency_vs_default"])
    divided = latency["latency_ms"] / default["latency"]["latency_ms"]
    yield label, who, "faster", speed(divided)
    yield label, who, "smaller", size(choice["memory_vs_default"])


def _plain(variant: str) -> str:
    return re.sub(r"→\w+", "", variant)


def _by_trial(result: WorkloadResult) -> dict[str, str]:
    """The name of its trial by the variant's label: tables of winners name no trial."""
    return {
        variant_label(c.evaluation.configuration.variant): trial_name(c.number)
        for c in result.measured
    }


@pytest.mark.parametrize("name", STUDIES)
def test_every_number_that_occurs_twice_has_one_value(name: str) -> None:
    of, results = results_of(name)
    varying = set(results.plan.space.searched)
    labels = [workload_label(result.workload, varying) for result in results.workloads]
    trials = dict(zip(labels, map(_by_trial, results.workloads), strict=True))
    outputs = {
        "verdict": _of_verdict(results, labels),
        "front": _of_fronts(results, labels),
        "export": _of_export(results, labels),
        "note": _of_note(results, labels),
        "report": _of_report(results, Page(render_report(of.study))),
        "json": _of_json(results),
    }
    found: dict[tuple[str, str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for output, said in outputs.items():
        count = 0
        for label, who, quantity, text in said:
            trial = trials[label].get(who, who)
            assert trial == "default" or trial.startswith("#"), (output, who)
            found[label, trial, quantity][text].add(output)
            count += 1
        assert count >= 4 * len(results.workloads), f"{output} was not read"
    apart = {place: dict(texts) for place, texts in found.items() if len(texts) > 1}
    assert not apart
    shared = [place for place, texts in found.items() if any(len(o) > 3 for o in texts.values())]
    assert len(shared) >= 4 * len(results.workloads)


@pytest.mark.parametrize("name", STUDIES)
def test_no_winner_is_slower_than_its_default_and_each_is_on_the_front(name: str) -> None:
    _, results = results_of(name)
    numbers = {trial.number: trial.evaluation for trial in results.trials}
    for result in results.workloads:
        default_ms = result.baseline.latency_ms
        least = min(c.latency for c in result.front)
        for preference, winner in result.winners.items():
            won = winner.candidate
            assert won in result.front
            if preference != "lowest_memory":
                verdict = won.verdict
                assert verdict is not None
                assert won.latency <= default_ms or verdict.word == "same"
            if won.number is not None:
                assert numbers[won.number].configuration == won.evaluation.configuration
        fastest = result.winners["lowest_latency"]
        assert fastest.candidate.latency == least or (not fastest.clear and fastest.ties)
        assert result.winners["lowest_memory"].candidate.memory == min(
            c.memory for c in result.front
        )


def test_an_interrupted_study_says_what_is_missing_and_how_to_get_it() -> None:
    _, results = results_of("interrupted")
    said = " ".join(" ".join(screen_lines(results, ["python -m search run"])).split())
    assert re.search(r"finalists are missing in [1-3] of 4", said)
