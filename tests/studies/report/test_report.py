"""The report: well-formed, complete, self-contained, and deaf to what a study's texts say."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from optuna.storages import BaseStorage

from objectives.schema.environment import Environment
from objectives.schema.evaluation import Evaluation, Outcome
from studies.report.intervals import Group, IntervalPlot, Line, mark, ticks_of
from studies.report.page import render_report
from studies.report.panel import Panel, PanelTable
from studies.report.rows import workload_sections
from studies.report.scale import Scale
from studies.results.labels import choice_name, gain, speed, trial_name
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

    def having(self, name: str, value: str) -> list[dict[str, str | None]]:
        return [attrs for _, attrs in self.elements if value in (attrs.get(name) or "").split()]

    def attributes(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.elements if name in attrs]


def trials_of(data: Any) -> list[dict[str, Any]]:
    """The trials of a page's data as its script reads them."""

    def cells(column: Any) -> list[Any]:
        if isinstance(column, list):
            return column
        return [column["words"][place] for place in column["places"]]

    columns = {name: cells(column) for name, column in data["trials"].items()}
    axes = {name: cells(column) for name, column in data["axes"].items()}
    count = {len(column) for column in (*columns.values(), *axes.values())}
    assert len(count) == 1
    return [
        {name: column[place] for name, column in columns.items()}
        | {"values": {name: column[place] for name, column in axes.items()}}
        for place in range(*count)
    ]


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
    assert len(running) == 1
    assert hashes == allowed


def test_every_trial_and_default_is_on_the_page_with_its_numbers(storage: BaseStorage) -> None:
    of = session(storage, FakeBench(fails={"math": Outcome.OUT_OF_MEMORY}), sampler="random")
    run(of, 30)
    results = read_results(of.study)
    page = Page(render_report(of.study))
    data = page.json("data")
    everything = trials_of(data)
    points = {point["trial"]: point for point in everything if point["trial"] is not None}
    assert sorted(points) == list(range(30))
    assert len(everything) - 30 == len(results.workloads)
    for told in results.trials:
        point, evaluation = points[told.number], told.evaluation
        assert point["outcome"] == evaluation.outcome.value
        for name, number in (
            ("latency", evaluation.latency_ms),
            ("memory", evaluation.peak_memory_mib),
        ):
            assert point[name] == (None if number is None else pytest.approx(number, rel=1e-4))
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
        assert section.rows[-1].trial == section.verdict[-1].trial == "default"
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
    assert not Page(render_report(alone.study)).having("class", "map")
    several = session(storage, name="several")
    run(several, 12)
    page = Page(render_report(several.study))
    links, places = page.attributes("href"), page.attributes("id")
    for place in range(len(several.survey.workloads)):
        assert links.count(f"#w{place}") == 1  # from the map
        assert places.count(f"w{place}") == 1  # inside of what that unfolds


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
    found = [c.measurements for c in results.workloads[0].measured]
    stored = [one.roofline for one in found if one.roofline is not None]
    assert len(stored) == len(found)
    (workload,) = data["workloads"]
    rows = {row.trial: row.roofline for row in workload_sections(results)[0].rows}
    if bench is UnknownRates:
        assert workload["roofline"] is None
        assert set(data["trials"]["roofline"]) == {None}
        assert set(rows.values()) == {""}
        return
    least = min(one.latency_ms for one in stored)
    assert workload["roofline"]["latency"] == pytest.approx(least)
    shares = [one.latency_share for one in stored]
    assert data["trials"]["roofline"] == pytest.approx(shares)
    numbers = map(trial_name, data["trials"]["trial"])
    for number, share in zip(numbers, shares, strict=True):
        assert rows.get(number) in (None, f"{100 * share:.2g} %")


def test_another_analysis_fills_a_section(storage: BaseStorage) -> None:
    of = session(storage)
    run(of, 3)
    scale = Scale(0.0, 2.0)
    line = Line(HOSTILE, HOSTILE, (mark(scale, "latency", HOSTILE, 1.0, (0.5, 1.5)),))
    panel = Panel(
        title=f"Sensitivity {HOSTILE}",
        text=(HOSTILE,),
        plots=(
            IntervalPlot(
                title="What drives it",
                about=HOSTILE,
                legend=(("latency", HOSTILE),),
                ticks=ticks_of(scale, "{:g}×"),
                origin=scale.at(1.0),
                groups=(Group(HOSTILE, (line,)),),
            ),
        ),
        tables=(PanelTable(HOSTILE, ("axis", "share"), ((HOSTILE, "0.5"),)),),
    )
    page = Page(render_report(of.study, [panel]))
    (dot,) = page.having("class", "dot")
    assert (dot["style"], dot["title"]) == ("left: 50.0%", HOSTILE)
    (interval,) = page.having("class", "range")
    assert interval["style"] == "left: 25.0%; width: 50.00%"
    assert "What drives it" in page.text
    assert not page.attributes("src")
    assert "#panel-1" in page.attributes("href")


def test_a_gain_below_one_is_said_the_other_way_round() -> None:
    assert [speed(ratio) for ratio in (0.5, 1.0, 1.004, 2.0, 150.0)] == [
        "2.00×",
        "1.00×",
        "1.00×",
        "2.00× slower",
        "150× slower",
    ]
    assert (gain(0.5, "faster", "slower"), gain(4.0, "faster", "slower")) == (
        "2.00× faster",
        "4.00× slower",
    )


@pytest.mark.parametrize(
    ("scale", "ticks"),
    [
        (Scale(0.0, 1.0), (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        (Scale(0.4, 12.0, logarithmic=True), (0.5, 1.0, 2.0, 5.0, 10.0)),
        (Scale(0.9, 1.12, logarithmic=True), (0.9, 0.95, 1.0, 1.05, 1.1)),
        (Scale(1e-4, 1e12, logarithmic=True), tuple(10.0**n for n in range(-4, 13, 3))),
    ],
)
def test_ticks_are_round_and_few(scale: Scale, ticks: tuple[float, ...]) -> None:
    assert scale.ticks() == pytest.approx(ticks)
    assert 0 <= scale.at(ticks[0]) < scale.at(ticks[-1]) <= 100
    assert (scale.at(scale.low / 2), scale.at(scale.high * 2)) == (0, 100)
