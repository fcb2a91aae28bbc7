"""All outputs of one study: a number that occurs twice occurs with one value."""

from __future__ import annotations

import html
import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest
from rich.console import Console

import search.views.pick_view
import search.views.screen
import search.views.verdict
import studies.dashboard.note
import studies.report.rows
from search.views.pick_view import print_pick
from search.views.screen import screen_lines
from search.views.verdict import print_front, print_verdict
from studies.dashboard.note import summary_note
from studies.export.document import Export, build_export
from studies.export.writing import document_text
from studies.report.page import render_report
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
from studies.results.summary import summary
from studies.results.winner_map import winner_maps
from studies.session.session import Session
from tests.stored_studies import STUDIES, results_of
from tests.studies.report.test_report import Page, trials_of

# What is said of a configuration: workload's label, trial's name or variant, quantity and text.
Said = Iterator[tuple[str, str, str, str]]
_QUANTITIES = ("ms", "faster", "MiB", "smaller")
_DOUBTFUL = re.compile(r"^(same|unclear) ")
_GAIN = re.compile(r"(\S+×)(?: (?:faster|smaller|(slower|larger)))?")


class Outputs:
    """Every text that a study is told in."""

    def __init__(self, of: Session, results: Results) -> None:
        self.results = results
        varying = set(results.plan.space.searched)
        self.labels = [workload_label(each.workload, varying) for each in results.workloads]
        fronts, verdict, pick = (Console(file=io.StringIO(), width=200) for _ in range(3))
        for result in results.workloads:
            print_front(fronts, result, varying)
        print_verdict(verdict, results)
        print_pick(pick, build_export(results), results)
        self.fronts, self.verdict, self.pick = map(_text, (fronts, verdict, pick))
        self.screen = screen_lines(results, ["python -m search show --all"])
        self.note = summary_note(results).replace("\\", "")
        self.report = render_report(of.study)
        self.files = {
            "file": json.loads(document_text(build_export(results))),
            "full file": json.loads(document_text(build_export(results, full=True), full=True)),
        }

    def said(self) -> Mapping[str, Said]:
        """What each of them says."""
        return {
            "fronts": self._of_fronts(),
            "verdict": self._of_verdict(),
            "export": self._of_pick(),
            "note": self._of_note(),
            "page": self._of_page(),
            "page's data": self._of_data(),
            "screen": self._of_screen(),
            **{name: self._of_file(document) for name, document in self.files.items()},
        }

    def numbers(self) -> dict[str, dict[str, str]]:
        """The names of trials, by workload and variant: not all tables show both."""
        return {
            label: {
                variant_label(c.evaluation.configuration.variant): trial_name(c.number)
                for c in result.measured
            }
            for label, result in zip(self.labels, self.results.workloads, strict=True)
        }

    def trials(self) -> Iterator[tuple[str, str, str]]:
        """What each trial was, by the study itself: workload, name and variant."""
        varying = set(self.results.plan.space.searched)
        defaults = [(None, default) for default in self.results.defaults]
        numbered = [(trial.number, trial.evaluation) for trial in self.results.trials]
        for number, evaluation in (*defaults, *numbered):
            of = evaluation.configuration
            label = workload_label(of.workload, varying)
            yield label, trial_name(number), variant_label(of.variant)

    def _of_fronts(self) -> Said:
        label = ""
        for cells in _cells(self.fronts):
            if cells[0].startswith("front of "):
                label = cells[0].removeprefix("front of ")
            elif label and (cells[0].startswith("#") or cells[0] == "default"):
                yield from _row(label, cells[0], [cells[2], *cells[4:7]])
                yield label, cells[0], "variant", _plain(cells[1])
                yield label, cells[0], "gpu ms", cells[3]
                yield label, cells[0], "error", cells[7]
                yield label, cells[0], "roofline", cells[8]

    def _of_verdict(self) -> Said:
        label = ""
        for cells in _cells(self.verdict):
            if cells[0] in self.labels:
                label = cells[0]
            elif label and cells[0] == "default" and len(cells) == 6:
                yield from _row(label, "default", [cells[2], "", cells[4], ""])
                yield label, "default", "gpu ms", cells[3]
            elif label and len(cells) == 8:
                name = re.sub(r"^the default \((.*)\)$", r"\1", cells[1])
                yield from _row(label, _plain(name), [cells[2], *cells[4:7]])
                yield label, _plain(name), "gpu ms", cells[3]
                yield label, _plain(name), "error", cells[7]

    def _of_pick(self) -> Said:
        for cells in _cells(self.pick):
            if cells[0] in self.labels and len(cells) == 7:
                yield from _row(cells[0], _plain(cells[1]), cells[2:6])

    def _of_note(self) -> Said:
        label = ""
        for line in self.note.splitlines():
            cells = [cell.strip() for cell in line.split("|")[1:-1]]
            if len(cells) == 9 and (cells[3] == "default" or cells[3].startswith("#")):
                label = cells[0] or label
                yield from _row(label, cells[3], cells[4:8])
                yield label, cells[3], "variant", _plain(cells[2])

    def _of_screen(self) -> Said:
        """Its map, or the choices of a single workload."""
        text = "\n".join(self.screen)
        if len(self.labels) > 1:
            for one in winner_maps(self.results):
                for name, results in zip(one.rows, one.cells, strict=True):
                    (row,) = re.findall(rf"^{name} +(.*)$", text, re.MULTILINE)
                    cells = re.split(r" +(?=[a-z])(?!slower)", row.strip())
                    for cell, result in zip(cells, results, strict=True):
                        assert result is not None
                        label = self.labels[self.results.workloads.index(result)]
                        number = result.winners["balanced"].candidate.number
                        gained = cell.partition(" ")[2] or "1.00×"
                        yield label, trial_name(number), "faster", gained
            return
        lines = iter(self.screen)
        for line in lines:
            if found := re.match(r"\S.* (\S+) ms +(\S+× \w+)? +(\S+) MiB ?(.*)", line):
                below = next(lines).split()
                who = below[0] if below[0].startswith("#") else "default"
                yield from _row(self.labels[0], who, [cell or "" for cell in found.groups()])

    def _of_page(self) -> Said:
        page = Rows(self.report)
        for label, who, quantity, text in page.said:
            yield label or self.labels[0], who, quantity, text

    def _of_data(self) -> Said:
        data = Page(self.report).json("data")
        for point in trials_of(data):
            label, who = data["workloads"][point["workload"]]["label"], trial_name(point["trial"])
            if point["latency"] is not None:
                yield label, who, "variant", _plain(point["name"])
                yield label, who, "ms", milliseconds(point["latency"])
                yield label, who, "MiB", mebibytes(point["memory"])
                yield label, who, "gpu ms", milliseconds(point["gpu"])
                yield label, who, "roofline", f"{100 * point['roofline']:.2g} %"

    def _of_file(self, document: Any) -> Said:
        Export.model_validate(document)
        for place, (label, workload) in enumerate(
            zip(self.labels, document["workloads"], strict=True)
        ):
            default = workload["default"]["measurements"]
            yield label, "default", "ms", milliseconds(default["latency"]["latency_ms"])
            by_key = {c.key: trial_name(c.number) for c in self.results.workloads[place].measured}
            for one in (workload.get("finals") or {"finalists": []})["finalists"]:
                who = by_key[one["variant"]]
                yield label, who, "ms", milliseconds(one["latency_ms"])
                yield label, who, "gpu ms", milliseconds(one["gpu_ms"])
                yield label, who, "faster", speed(one["latency"]["ratio"])
            for choice in workload["configurations"]:
                who, latency = trial_name(choice["trial"]), choice["measurements"]["latency"]
                yield label, who, "ms", milliseconds(latency["latency_ms"])
                yield label, who, "gpu ms", milliseconds(latency["gpu"]["value"])
                memory = choice["measurements"]["memory"]["peak_mib"]
                yield label, who, "MiB", mebibytes(memory)
                yield label, who, "faster", speed(1 / choice["speedup"])
                divided = latency["latency_ms"] / default["latency"]["latency_ms"]
                yield label, who, "faster", speed(divided)
                yield label, who, "smaller", size(1 / choice["memory_reduction"])
                yield label, who, "smaller", size(memory / default["memory"]["peak_mib"])


class Rows(Page):
    """Reads the tables of a report's workloads as a browser shows them."""

    def __init__(self, text: str) -> None:
        self.said: list[tuple[str, str, str, str]] = []
        self._label = self._cell = ""
        self._row: dict[str, str] = {}
        super().__init__(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        found = dict(attrs)
        if tag == "tr":
            self._row = {}
        if tag in ("td", "th", "h3", "small", "span"):
            self._cell = {"h3": "h3"}.get(tag, found.get("data-label") or "")
            self._cell = "variant" if found.get("scope") == "row" else self._cell

    def handle_endtag(self, tag: str) -> None:
        super().handle_endtag(tag)
        if tag == "tr" and "trial" in self._row:
            who = self._row.pop("trial")
            named = {"latency ms": "ms", "peak MiB": "MiB", "GPU ms": "gpu ms"}
            for label, text in self._row.items():
                quantity = named.get(label, label.removeprefix("of "))
                said = _plain(text) if quantity == "variant" else text
                if said:
                    self.said.append((self._label, who, quantity, said))
        if tag in ("td", "th", "h3"):
            self._cell = ""

    def handle_data(self, data: str) -> None:
        super().handle_data(data)
        text = html.unescape(data).strip()
        if self._cell == "h3":
            self._label = text
        elif self._cell and text:
            self._row.setdefault(self._cell, text)


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _cells(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        yield re.split(r"\s{2,}", line.strip())


def _row(label: str, who: str, cells: list[str]) -> Said:
    """Latency, gain, memory and gain."""
    for quantity, cell in zip(_QUANTITIES, cells, strict=True):
        if cell.strip():
            yield label, who, quantity, cell.strip()


def _plain(variant: str) -> str:
    return re.sub(r"→\w+", "", variant).strip()


def _normal(quantity: str, text: str) -> str:
    """Without the words that one output says and another shows by a column's name."""
    if quantity not in ("faster", "smaller"):
        return text
    found = _GAIN.fullmatch(_DOUBTFUL.sub("", text))
    assert found is not None, text
    return " ".join(filter(None, found.groups()))


def _apart(outputs: Outputs) -> dict[tuple[str, str, str], dict[str, set[str]]]:
    """What is told with two values: workload, trial and quantity; who says which."""
    numbers = outputs.numbers()
    found: dict[tuple[str, str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for label, trial, name in outputs.trials():
        found[label, trial, "variant"][name].add("study")
    for output, said in outputs.said().items():
        count = 0
        for label, who, quantity, text in said:
            trial = numbers[label].get(who, who)
            assert trial == "default" or trial.startswith("#"), (output, who)
            if (label, trial, "variant") not in found:
                found[label, trial, "variant"]["of another workload"].add(output)
                found[label, trial, "variant"]["none"].add("study")
            found[label, trial, quantity][_normal(quantity, text)].add(output)
            count += 1
        least = 1 if output == "screen" else 3
        assert count >= least * len(outputs.labels), f"{output} was not read"
    shared = [place for place, texts in found.items() if any(len(o) > 5 for o in texts.values())]
    assert len(shared) >= 4 * len(outputs.labels)
    return {place: dict(texts) for place, texts in found.items() if len(texts) > 1}


@cache
def told(name: str) -> tuple[Session, Results]:
    return results_of(name)


@pytest.mark.parametrize("name", STUDIES)
def test_every_number_that_occurs_twice_has_one_value(name: str) -> None:
    assert not _apart(Outputs(*told(name)))


@pytest.mark.parametrize("name", STUDIES)
def test_the_sentence_is_one_everywhere(name: str) -> None:
    outputs = Outputs(*told(name))
    sentence = summary(outputs.results)
    assert sentence in " ".join(" ".join(outputs.screen).split())
    assert sentence in outputs.note
    assert sentence in html.unescape(outputs.report)


@pytest.mark.parametrize(
    "broken",
    [
        (search.views.verdict, "milliseconds"),
        (search.views.verdict, "speed"),
        (search.views.screen, "speed"),
        (search.views.screen, "gain"),
        (search.views.pick_view, "mebibytes"),
        (studies.dashboard.note, "size"),
        (studies.dashboard.note, "trial_name"),
        (studies.report.rows, "speed"),
        (studies.report.rows, "milliseconds"),
    ],
    ids=lambda broken: f"{broken[0].__name__.rpartition('.')[2]}.{broken[1]}",
)
def test_one_output_that_is_off_is_found(
    broken: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = broken
    right = getattr(module, name)

    def off(value: Any, *others: Any) -> str:
        return str(right(value and (value + 1 if name == "trial_name" else 1.03 * value), *others))

    monkeypatch.setattr(module, name, off)
    study = "one" if name == "gain" else "quiet"
    assert _apart(Outputs(*told(study)))


@pytest.mark.parametrize("name", STUDIES)
def test_no_winner_is_slower_than_its_default_and_each_is_on_the_front(name: str) -> None:
    _, results = told(name)
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
        fastest = result.winners["lowest_latency"]
        shown = milliseconds(fastest.candidate.latency) == milliseconds(least)
        assert shown or (not fastest.clear and fastest.ties)
        smallest = result.winners["lowest_memory"].candidate
        assert smallest.memory <= 1.001 * min(c.memory for c in result.front)


@pytest.mark.parametrize("name", STUDIES)
def test_no_table_calls_a_winner_what_it_shows_to_be_slower(name: str) -> None:
    outputs = Outputs(*told(name))
    seen: Counter[str] = Counter()
    tables = [("verdict", cells) for cells in _cells(outputs.verdict)]
    tables += [
        ("note", [cell.strip() for cell in line.split("|")[2:-1]])
        for line in outputs.note.splitlines()
        if line.startswith("|")
    ]
    for table, cells in tables:
        if re.match(r"lowest latency|no clear winner|balanced", cells[0]):
            seen[table] += 1
            slower = [cell for cell in cells if cell.endswith("slower")]
            assert all(cell.startswith("same ") for cell in slower), cells
    assert set(seen) == {"verdict", "note"}


def test_an_interrupted_study_says_what_is_missing_and_how_to_get_it() -> None:
    _, results = told("interrupted")
    said = " ".join(" ".join(screen_lines(results, ["python -m search run"])).split())
    assert re.search(r"finalists are missing in [1-3] of 4", said)
