"""The report: well-formed, complete, self-contained, and deaf to what a study's texts say."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import plotly.graph_objects as go
import pytest
from optuna.storages import BaseStorage

from objectives.schema.environment import Environment
from objectives.schema.evaluation import Evaluation, Outcome
from studies.report.page import render_report
from studies.report.panel import Panel, PanelTable
from studies.report.rows import workload_sections
from studies.results.labels import choice_name, trial_name
from studies.results.results import read_results
from tests.fake_bench import FakeBench
from tests.studies.session.test_session import run, session
from variants.configuration import Configuration

HOSTILE = "</script></td><script>alert(1)</script><img src=https://example.org/x onerror=alert(2)>"
VOID = {"meta", "br", "input", "img", "link", "hr"}


class Page(HTMLParser):
    """Reads a page: its elements, the text of its scripts, and whether tags match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append((self.elements[-1][1], data))
        else:
            self.text.append(data)

    def json(self, identity: str) -> Any:
        (found,) = [text for attrs, text in self.scripts if attrs.get("id") == identity]
        return json.loads(found)

    def attributes(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.elements if name in attrs]


class HostileBench(FakeBench):
    """Fails with, runs on and calls kernels by names that would break out of a page."""

    def environment(self) -> Environment:
        device = self.device().model_copy(update={"name": f"GPU {HOSTILE}"})
        return super().environment().model_copy(update={"device": device})

    def evaluate(self, configuration: Configuration) -> Evaluation:
        evaluation = super().evaluate(configuration)
        if evaluation.measurements is None:
            return evaluation.model_copy(update={"reason": HOSTILE})
        measured = evaluation.measurements.model_copy(update={"kernels": (HOSTILE,)})
        if configuration.variant.precision == "fp16":
            infinite = measured.model_copy(update={"relative_error": float("inf")})
            return evaluation.model_copy(
                update={
                    "outcome": Outcome.INACCURATE,
                    "reason": HOSTILE,
                    "measurements": infinite,
                }
            )
        return evaluation.model_copy(update={"measurements": measured})


def test_whatever_a_study_says_the_page_is_well_formed_and_runs_its_own_scripts_alone(
    storage: BaseStorage,
) -> None:
    bench = HostileBench(fails={"math": Outcome.CRASHED})
    of = session(storage, bench, sampler="random", name=f"study {HOSTILE}")
    run(of, 30)
    page = Page(render_report(of.study))
    # Nothing is fetched, and no element comes from the study.
    assert not page.attributes("src")
    assert all(link.startswith("#") for link in page.attributes("href"))
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    assert not [tag for tag, _ in page.elements if tag in ("img", "link", "iframe", "object")]
    assert any("example.org" in text for text in page.text)  # shown, as text
    # The policy names exactly the scripts that are there.
    (policy,) = [a["content"] or "" for t, a in page.elements if "http-equiv" in a]
    assert policy.startswith("default-src 'none'; ")
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    running = [text for attrs, text in page.scripts if attrs.get("type") != "application/json"]
    hashes = {base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in running}
    assert len(running) == 2
    assert hashes == allowed


def test_every_trial_and_default_is_on_the_page_with_its_numbers(storage: BaseStorage) -> None:
    of = session(storage, FakeBench(fails={"math": Outcome.OUT_OF_MEMORY}), sampler="random")
    run(of, 30)
    results = read_results(of.study)
    page = Page(render_report(of.study))
    data = page.json("data")
    points = {point["trial"]: point for point in data["trials"] if point["trial"] is not None}
    assert sorted(points) == list(range(30))
    assert len(data["trials"]) - 30 == len(results.workloads)
    for told in results.trials:
        point, evaluation = points[told.number], told.evaluation
        assert point["outcome"] == evaluation.outcome.value
        assert point.get("latency") == evaluation.latency_ms
        assert point.get("memory") == evaluation.peak_memory_mib
        workload = results.workloads[point["workload"]].workload
        assert workload == evaluation.configuration.workload
        for axis, value in point["values"].items():
            assert value == (getattr(evaluation.configuration.variant, axis) or "inactive")
    assert {point["outcome"] for point in points.values()} == {"MEASURED", "OUT_OF_MEMORY"}
    figures = [attrs for _, attrs in page.elements if "data-workload" in attrs]
    assert len(figures) == len(results.workloads)


def test_tables_show_the_front_the_winners_and_what_is_missing(storage: BaseStorage) -> None:
    of = session(storage, FakeBench(fails={"math": Outcome.OUT_OF_MEMORY}), sampler="random")
    run(of, 30)
    results = read_results(of.study)
    for section, result in zip(workload_sections(results), results.workloads, strict=True):
        assert section.rows[0].trial == "default"
        shown = {row.trial for row in section.rows}
        assert {trial_name(c.number) for c in result.front} <= shown
        tagged = {tag for row in section.rows for tag in row.chosen}
        latency = choice_name("lowest_latency", clear=result.winners["lowest_latency"].clear)
        assert tagged == {"default", latency, "lowest memory", "balanced"}
        missing = sum(count for _, count, _ in section.missing)
        mine = [
            told
            for told in results.trials
            if told.evaluation.configuration.workload == result.workload
        ]
        measured = {c.number for c in result.measured if c.number is not None}
        assert missing == len(mine) - len(measured)
        # A bar is its parts, and the longest one is as long as bars get.
        for bars in (section.time, section.memory):
            lengths = [sum(part.share for part in bar.parts) for bar in bars.bars]
            assert max(lengths) == pytest.approx(100)


def test_one_workload_has_no_map_and_several_have_each_in_a_cell(storage: BaseStorage) -> None:
    one = {"batch": (1,), "seq_len": (512,), "score_mod": ("none",)}
    alone = session(storage, axes=one, name="alone")
    run(alone, 5)
    assert "Goldilocks map" not in render_report(alone.study)
    several = session(storage, name="several")
    run(several, 12)
    page = Page(render_report(several.study))
    links = page.attributes("href")
    for place in range(len(several.survey.workloads)):
        assert links.count(f"#w{place}") == 2  # from the winners and from the map


def test_a_study_without_a_trial_or_without_success_still_has_a_report(
    storage: BaseStorage,
) -> None:
    empty = session(storage, name="empty")
    Page(render_report(empty.study))
    run(empty, 0)
    Page(render_report(empty.study))
    names = ("eager", "math", "flash", "efficient", "cudnn", "flex", "auto")
    failing = FakeBench(fails=dict.fromkeys(names, Outcome.CRASHED))
    of = session(storage, failing, name="failing")
    run(of, 6)
    text = render_report(of.study)
    Page(text)
    assert "none of 6 tried configurations could be used" in text
    assert "as planned" in text


class UnknownRates(FakeBench):
    """On a device that is in no datasheet, and whose rates could not be measured."""

    def peaks(self) -> None:
        return None


@pytest.mark.parametrize("bench", [FakeBench, UnknownRates])
def test_the_roofline_is_that_of_the_study_and_typical_rates_are_none(
    storage: BaseStorage, bench: type[FakeBench]
) -> None:
    axes = {"batch": (1,), "seq_len": (512,), "precision": ("fp32",), "score_mod": ("none",)}
    of = session(storage, bench(profile="cpu"), axes=axes)
    run(of, 4)
    data = Page(render_report(of.study)).json("data")
    results = read_results(of.study)
    stored = [c.measurements.roofline for c in results.workloads[0].measured]
    least = min(one.latency_ms for one in stored if one is not None)
    (workload,) = data["workloads"]
    if bench is UnknownRates:
        assert workload["roofline"] is None
        assert all(point["roofline"] is None for point in data["trials"])
    else:
        assert workload["roofline"]["latency"] == least
        assert all(
            point["roofline"] == one.latency_share
            for point, one in zip(data["trials"], stored, strict=True)
            if one is not None
        )


def test_another_analysis_fills_a_section(storage: BaseStorage) -> None:
    of = session(storage)
    run(of, 3)
    panel = Panel(
        title=f"Sensitivity {HOSTILE}",
        text=(HOSTILE,),
        figures=(
            go.Figure(go.Bar(x=[1.0], y=[HOSTILE])),
            go.Figure(layout={"title": "What drives it<br><sup>shares of all</sup>"}),
        ),
        tables=(PanelTable(HOSTILE, ("axis", "share"), ((HOSTILE, "0.5"),)),),
    )
    page = Page(render_report(of.study, [panel]))
    assert page.json("panel-1-1")["data"][0]["y"] == [HOSTILE]
    assert "What drives it: shares of all" in page.attributes("aria-label")
    assert "What drives it: shares of all" in page.text
    assert not page.attributes("src")
    assert "#panel-1" in page.attributes("href")
