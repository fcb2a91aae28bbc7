"""Sensitivity and zone of a study: what is ranked, refused, shown, and checked by hand."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from rich.console import Console

from objectives.schema.evaluation import Evaluation, Outcome
from search.cli import main
from search.views.effects_view import print_effects
from search.views.zone_view import print_zone
from studies.report.sensitivity_panel import sensitivity_panel
from studies.sensitivity.analysis import FAILURE, LATENCY, MEMORY, analyse
from studies.sensitivity.assess import assess
from studies.sensitivity.evidence import Evidence, read_evidence
from studies.sensitivity.figures import PLOT_ID, figures, write_html
from studies.sensitivity.importances import optuna_importances
from studies.sensitivity.report import SensitivityReport, as_rows
from studies.sensitivity.zone import find_zone
from studies.storage.optuna_internals import stored_system_attributes
from studies.study.study import load_study, open_storage
from studies.study.trials import finished_trials
from tests.fake_bench import FakeBench, measurements
from tests.studies.session.test_session import run, session
from variants.configuration import Configuration

AXES = {
    "batch": (1, 16),
    "seq_len": (512, 2048),
    "score_mod": ("none",),
    "backend": ("eager", "math", "cudnn"),
    "precision": ("fp32", "bf16", "fp16"),
    "cache": ("none", "concat", "static"),
    "execution": ("eager",),
}


class LawfulBench(FakeBench):
    """Factors by choice, so that every effect is known: `static` needs 0.4 of `concat`'s time."""

    def evaluate(self, configuration: Configuration) -> Evaluation:
        workload, variant = configuration.workload, configuration.variant
        latency = 0.01 * workload.batch * (workload.seq_len / 512) ** 0.5
        latency *= {"none": 8.0, "concat": 1.0, "static": 0.4}[variant.cache or "none"]
        latency *= 1.5 if variant.backend == "math" else 1.0
        memory = 5.0 * workload.batch * (2.0 if variant.precision == "fp32" else 1.0)
        memory *= 3.0 if variant.cache == "none" else 1.0
        outcome = self.fails.get(variant.backend, Outcome.MEASURED)
        return Evaluation(
            configuration=configuration,
            outcome=outcome,
            reason="" if outcome is Outcome.MEASURED else "as planned",
            measurements=measurements(latency, memory, latency * 0.01),
        )


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Studies of one space by probes alone, by an optimizer alone, and of everything."""
    url = f"sqlite:///{tmp_path_factory.mktemp('sensitivity')}/s.db"
    storage = open_storage(url)
    failing = LawfulBench({"math": Outcome.INACCURATE})
    for name, sampler, trials, bench in (
        ("optimizer", "tpe", 40, LawfulBench()),
        ("swept", "sweep", 1000, LawfulBench()),
        ("failing", "random", 50, failing),
        ("probes", "random", 45, LawfulBench()),
    ):
        of = session(storage, bench, axes=AXES, sampler=sampler, name=name)
        run(of, of.budget(trials))
    return url


def load(url: str, name: str) -> optuna.Study:
    return load_study(open_storage(url), name)


def evidence(url: str, name: str, *, prior: bool = True) -> Evidence:
    return read_evidence(load(url, name), prior=prior)


def test_probes_are_enough_to_know_the_law(url: str) -> None:
    found = analyse(evidence(url, "probes"), by_workload=True)
    exact = analyse(evidence(url, "swept")).objectives
    assert set(found.known) == {MEMORY, LATENCY}
    for name in (MEMORY, LATENCY):
        objective, truth = found.objectives[name], exact[name]
        assert truth.quality.exact
        assert objective.quality.refusal is None
        assert objective.shares[0].axis == truth.shares[0].axis
        total = {share.axis: share.total.value for share in truth.shares}
        for share in objective.shares:
            assert share.total.value == pytest.approx(total[share.axis], abs=0.05)
        assert objective.by_workload is not None
        assert len(objective.by_workload) == 4
        assert objective.prior_share is not None
    changes = {
        (change.axis, change.choice): change for change in found.objectives[LATENCY].changes
    }
    static = changes["cache", "static"]
    assert static.reference == "concat"
    assert static.effect is not None
    assert static.effect.value == pytest.approx(0.4, rel=0.1)
    assert static.effect.low < 0.4 < static.effect.high
    assert static.seen == pytest.approx(0.4)
    assert changes["batch", 16].reference == 1


def test_exact_effects_are_those_of_the_law(url: str) -> None:
    exact = analyse(evidence(url, "swept")).objectives[LATENCY]
    changes = {(change.axis, change.choice): change.effect for change in exact.changes}
    for (axis, choice), factor in {
        ("cache", "static"): 0.4,
        ("cache", "none"): 8.0,
        ("backend", "math"): 1.5,
        ("batch", 16): 16.0,
        ("seq_len", 2048): 2.0,
    }.items():
        effect = changes[axis, choice]
        assert effect is not None
        assert (effect.value, effect.low, effect.high) == (pytest.approx(factor),) * 3
    shares = {share.axis: share for share in exact.shares}
    assert shares["batch"].total.value == pytest.approx(shares["batch"].alone.value)
    assert shares["precision"].total.value == pytest.approx(0, abs=1e-9)
    assert exact.interactions[0].share.value == pytest.approx(0, abs=1e-9)


def test_of_a_part_of_the_workloads_the_effects_of_the_variant_are_the_same(url: str) -> None:
    read = evidence(url, "swept")
    whole, part = analyse(read), analyse(read, by_workload=True, most=len(read.catalogue) // 2)
    assert len(part.extent.rows) < part.possible
    thinned = part.extent.kept.keys()
    assert thinned <= {"batch", "seq_len"}
    for name in (MEMORY, LATENCY):
        effects = {(c.axis, c.choice): c.effect for c in whole.objectives[name].changes}
        found = {(c.axis, c.choice): c.effect for c in part.objectives[name].changes}
        assert all(axis not in thinned for axis, _ in found)
        assert {axis for axis, _ in effects} - {axis for axis, _ in found} == thinned
        for change, effect in found.items():
            expected = effects[change]
            assert effect is not None
            assert expected is not None
            assert effect.value == pytest.approx(expected.value)
        assert len(part.objectives[name].by_workload or {}) == 4  # of all, one by one
    report = SensitivityReport("s", read, part, find_zone(read, part, 0.1), ())
    assert report.as_document()["effects_over"] == {
        "configurations": len(part.extent.rows),
        "choices": {name: list(choices) for name, choices in part.extent.kept.items()},
    }
    said = io.StringIO()
    print_effects(Console(file=said, width=200), report, "")
    assert part.extent.text(part.possible) in said.getvalue()
    assert part.extent.text(part.possible) in sensitivity_panel(report).text


def test_trials_that_an_optimizer_chose_are_refused(url: str) -> None:
    found = analyse(evidence(url, "optimizer", prior=False))
    for objective in found.objectives.values():
        assert objective.quality.refusal is not None
        assert not objective.shares
        assert all(change.effect is None for change in objective.changes)
        assert 0 < objective.quality.more_probes <= 16
    assert not found.known


def test_pairs_are_trials_that_differ_in_the_choice_alone(url: str) -> None:
    read = evidence(url, "optimizer")
    by_number = {
        trial.number: trial.evaluation for trial in finished_trials(load(url, "optimizer"))
    }
    checked = 0
    for change in analyse(read).objectives[LATENCY].changes:
        ratios = []
        for one, other in change.pairs:
            a, b = by_number[one].configuration, by_number[other].configuration
            differing = {
                name
                for name in read.catalogue.choices
                if getattr(a.workload, name, getattr(a.variant, name, None))
                != getattr(b.workload, name, getattr(b.variant, name, None))
            }
            assert differing == {change.axis}
            latency_a, latency_b = by_number[one].latency_ms, by_number[other].latency_ms
            assert latency_a is not None
            assert latency_b is not None
            ratios.append(math.log(latency_a / latency_b))
            checked += 1
        if ratios:
            assert change.seen == pytest.approx(math.exp(np.mean(ratios)))
    assert checked > 20


def test_the_probability_of_failing_is_ranked(url: str) -> None:
    found = analyse(evidence(url, "failing")).objectives[FAILURE]
    assert found.quality.refusal is None
    assert found.shares[0].axis == "backend"
    assert found.shares[0].total.value > 0.9
    math_fails = next(c for c in found.changes if c.choice == "math")
    assert math_fails.effect is not None
    assert math_fails.effect.value == pytest.approx(1, abs=0.1)


def brute_force_front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [p for p in points if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)]


def near(point: tuple[float, float], front: list[tuple[float, float]], tolerance: float) -> bool:
    margin = math.log10(1 + tolerance)
    return any(point[0] <= p[0] + margin and point[1] <= p[1] + margin for p in front)


def fronts(read: Evidence) -> dict[int, list[tuple[float, float]]]:
    found = {number: [read.defaults[number]] for number in range(len(read.workloads))}
    for index in read.observations.values.keys() - read.observations.failed:
        found[int(read.catalogue.workloads[index])].append(read.observations.values[index])
    return {number: brute_force_front(points) for number, points in found.items()}


@pytest.mark.parametrize("tolerance", [0.0, 0.1, 2.0])
def test_the_zone_is_what_brute_force_says(url: str, tolerance: float) -> None:
    read = evidence(url, "failing")
    zone = find_zone(read, analyse(read), tolerance)
    outcomes = {t.number: t.evaluation.outcome for t in finished_trials(load(url, "failing"))}
    of_workload = fronts(read)
    inside: set[int] = set()
    for number, of in enumerate(zone.workloads):
        mine = {
            read.numbers[index]
            for index, point in read.observations.values.items()
            if read.catalogue.workloads[index] == number
            and outcomes[read.numbers[index]] is Outcome.MEASURED
            and near(point, of_workload[number], tolerance)
        }
        assert set(of.trials) == mine
        inside |= mine
    assert zone.part.inside == len(inside) > 0
    math_ = next(choice for choice in zone.choices if choice.choice == "math")
    assert (math_.standing, math_.part.usable) == ("out", 0)
    assert sum(c.part.inside for c in zone.choices if c.axis == "backend") == len(inside)


def test_a_wider_zone_holds_the_narrower_and_what_is_expected_comes_true(url: str) -> None:
    read = evidence(url, "probes")
    found = analyse(read)
    narrow, wide = (find_zone(read, found, tolerance) for tolerance in (0.05, 0.5))
    for one, other in zip(narrow.workloads, wide.workloads, strict=True):
        assert set(one.trials) <= set(other.trials)
    swept, of_workload = evidence(url, "swept"), fronts(read)
    truth = sum(
        near(point, of_workload[int(read.catalogue.workloads[index])], 0.5)
        for index, point in swept.observations.values.items()  # of the same catalogue
        if index not in read.observations.tried
    )
    assert wide.part.expected is not None
    assert wide.part.expected.value == pytest.approx(truth, rel=0.35)


def test_the_first_proposal_is_what_a_run_tries_next(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/s.db")
    of = session(storage, LawfulBench(), axes=AXES, sampler="goldilocks")
    run(of, 17)  # the next one is no probe
    read = read_evidence(of.study, prior=True)
    proposed = find_zone(read, analyse(read), 0.1).proposals
    assert len({proposal.workload for proposal in proposed}) == len(proposed) > 1
    assert [p.gain for p in proposed] == sorted((p.gain for p in proposed), reverse=True)
    key = of.trial().configuration.key
    assert key == f"{proposed[0].workload} {proposed[0].variant}"


@pytest.mark.parametrize("gain", [4e-4, 6e-4])
def test_what_promises_nothing_is_not_proposed(url: str, gain: float) -> None:
    report = assess(load(url, "probes"), prior=True)
    proposals = tuple(replace(one, gain=gain) for one in report.zone.proposals)
    assert proposals
    console = Console(file=io.StringIO(), width=160)
    where = "--study probes"
    print_zone(console, replace(report, zone=replace(report.zone, proposals=proposals)), where)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert ("Nothing worth trying is left" in text) is (gain < 5e-4)
    assert (f"search run {where}" in text) is (gain > 5e-4)
    assert "0.0%" not in text


def test_optuna_s_importances_are_named_for_what_they_answer(url: str) -> None:
    fanova, pedanova = optuna_importances(load(url, "probes"), 0)
    assert (fanova.evaluator, pedanova.evaluator) == ("fANOVA", "PED-ANOVA")
    assert set(fanova.of) == set(pedanova.of) == {MEMORY, LATENCY}
    assert "variance" in fanova.answers
    assert "best tenth" in pedanova.answers
    assert sum(fanova.of[LATENCY].values()) == pytest.approx(1)


def test_figures_are_one_page_and_stored_for_the_dashboard(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "s.html"
    words = ["search", "sensitivity", "--storage", url, "--study", "probes", "--html", str(page)]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr("search.sensitivity_command.console", Console(width=160))
    assert main() == 0
    out = capsys.readouterr().out
    assert "what drives them" in out
    assert "static ← concat" in out
    text = page.read_text()
    assert "<script src=" not in text
    assert text.count("Plotly.newPlot(") >= 4
    study = load(url, "probes")
    stored = json.dumps(stored_system_attributes(study))
    for name in ("effects", "interactions", "numbers", "zone"):
        assert PLOT_ID + name in stored


def test_figures_of_what_is_refused_are_missing(url: str, tmp_path: Path) -> None:
    read = evidence(url, "optimizer")
    found = analyse(read)
    report = SensitivityReport("optimizer", read, found, find_zone(read, found, 0.1), ())
    drawn = figures(report)
    assert set(drawn) == {"zone"}
    cells = drawn["zone"].data[0]
    assert np.nansum(np.array(cells.z, dtype=float)) == report.zone.part.inside
    write_html(tmp_path / "z.html", drawn, "<z>")
    assert "&lt;z&gt;" in (tmp_path / "z.html").read_text()


def test_json_and_csv_hold_the_same_numbers(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["search", "sensitivity", "--storage", url, "--study", "probes", "--by-workload"]
    monkeypatch.setattr(sys, "argv", [*base, "--json"])
    assert main() == 0
    document = json.loads(capsys.readouterr().out)
    assert document["axes"]["cache"] == {
        "choices": ["none", "concat", "static"],
        "reference": "concat",
        "of": "variant",
        "determined": False,
    }
    monkeypatch.setattr(sys, "argv", [*base, "--csv"])
    assert main() == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    for name in (MEMORY, LATENCY):
        for share in document["objectives"][name]["shares"]:
            row = next(
                row
                for row in rows
                if (row["objective"], row["what"], row["axis"], row["workload"])
                == (name, "share_total", share["axis"], "")
            )
            assert float(row["value"]) == pytest.approx(share["total"]["value"])
    assert {row["workload"] for row in rows if row["what"] == "share_total"} > {""}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json", "--csv"], "--json and --csv must not both be given"),
        (["--study", "absent"], "study must be one of optimizer, "),
        (["--tolerance", "-1"], "--tolerance"),
        (["--html", "/absent/x.html"], "--html must be a file that can be written"),
    ],
)
def test_wrong_usage_is_one_line(
    url: str,
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["search", "sensitivity", "--storage", url, *words])
    assert main() == 2
    assert message in capsys.readouterr().err


def test_a_study_of_a_few_trials_is_no_error(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/s.db")
    of = session(storage, LawfulBench(), axes=AXES)
    for trials in (0, 1, 3):
        run(of, trials)
        read = read_evidence(of.study, prior=True)
        found = analyse(read, by_workload=True)
        zone = find_zone(read, found, 0.1)
        report = SensitivityReport("s", read, found, zone, optuna_importances(of.study, 0))
        assert "refusal" in json.dumps(report.as_document())
        assert figures(report)


def test_a_study_of_one_configuration_is_no_error(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/s.db")
    pinned = {name: choices[-1:] for name, choices in AXES.items()}
    of = session(storage, LawfulBench(), axes=pinned)
    for trials in (0, 1):
        run(of, trials)
        read = read_evidence(of.study, prior=True)
        found = analyse(read, by_workload=True)
        report = SensitivityReport("s", read, found, find_zone(read, found, 0.1), ())
        assert json.loads(json.dumps(report.as_document()))["possible"] == 1
        assert len(as_rows(report)) >= 0
