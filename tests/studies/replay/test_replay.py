"""Replays on a recorded table, and what is scored."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage

from objectives.roofline.prior import Prediction, predict
from objectives.schema.evaluation import Outcome
from search.cli import main
from studies.replay.replay import Scorer, replay
from studies.replay.table import TableError, read_table
from studies.results.results import as_table, read_results
from studies.samplers.samplers import SAMPLERS
from tests.fake_bench import FakeBench
from tests.recorded_tables import HEADER
from tests.studies.session.test_session import run, session
from variants.configuration import Configuration
from variants.device import DEVICE_PROFILES, Device


def test_a_table_is_its_rows(table: Path) -> None:
    recorded = read_table(table)
    assert len(recorded.catalogue) == len(table.read_text().splitlines()) - 1 == 96
    assert list(recorded.catalogue.sizes) == [24] * 4
    assert {e.outcome.value for e in recorded.evaluations} == {"MEASURED", "OUT_OF_MEMORY"}
    for index, evaluation in enumerate(recorded.evaluations):
        params = recorded.catalogue.params(index)
        assert recorded.catalogue.find(params) == index
        assert params["backend"] == evaluation.configuration.variant.backend
        assert params["batch"] == evaluation.configuration.workload.batch


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_ends_at_all_there_is(table: Path, sampler: str) -> None:
    recorded = read_table(table)
    scores = list(replay(recorded, sampler, 0, (20, 96), DEVICE_PROFILES["h100"].device))
    assert [score.trials for score in scores] == [20, 96]
    assert 0 < scores[0].dispatch <= 1
    assert scores[1].dispatch == pytest.approx(1.0)
    assert scores[1].overall == pytest.approx(1.0)
    assert scores[1].latency_regret == pytest.approx(0.0)


def test_scores_are_what_they_say(table: Path) -> None:
    recorded = read_table(table)
    of_one = [recorded.evaluations[index] for index in recorded.catalogue.of_workload(0)]
    score = Scorer(recorded).score(of_one, 0.5)
    assert score.dispatch == pytest.approx(1 / 4)  # a workload that was not served counts 0
    assert score.seconds_per_ask == 0.5
    assert Scorer(recorded).score([], 0.0).dispatch == 0


def upside_down(configuration: Configuration, device: Device) -> Prediction:
    right = predict(configuration, device)
    return Prediction(1 / right.latency_ms, 1 / right.memory_mib)


def test_goldilocks_is_ahead_of_random_even_with_a_wrong_prior(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = read_table(table)

    def at_12(sampler: str, profile: str | None) -> float:
        device = None if profile is None else DEVICE_PROFILES[profile].device
        found = [
            next(replay(recorded, sampler, seed, (12,), device)).dispatch for seed in range(3)
        ]
        return sum(found) / 3

    assert at_12("goldilocks", "h100") > 0.95
    assert at_12("goldilocks", None) > at_12("random", None)
    assert at_12("goldilocks", "cpu") > at_12("random", None)
    monkeypatch.setattr("studies.space.catalogue.predict", upside_down)
    assert at_12("goldilocks", "h100") > at_12("random", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("phase,batch,status\ndecode,1,ok", "there must be a column peak_bytes or peak_mib"),
        (HEADER, "must have rows, got none"),
        (HEADER + "\ndecode,1,8,none,math,fp32,none,eager,ok,1,1" * 2, "some are alike"),
        (HEADER + "\ndecode,1,8,none,maths,fp32,none,eager,ok,1,1", "line 2: .*got maths"),
        (HEADER + "\ndecode,x,8,none,math,fp32,none,eager,ok,1,1", "line 2"),
        (HEADER + "\ndecode,1,8,none,math,fp32,none,eager,fine,1,1", "status must be one of"),
        (HEADER + "\ndecode,1,8,none,math,fp32,none,eager,ok,,", "line 2"),
        (HEADER + "\ndecode,1,8,none,math,fp32,none,eager,ok,1,-1", "must be positive"),
    ],
)
def test_a_bad_table_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(TableError, match=message):
        read_table(path)


def test_the_command_prints_scores_and_json(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["replay", str(table), "--sampler", "random,goldilocks", "--trials", "10,30"]
    monkeypatch.setattr(sys, "argv", ["search", *words, "--seeds", "2"])
    assert main() == 0
    assert "96 configurations of 4 workloads, 2 seeds" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["search", *words, "--seeds", "2", "--json"])
    assert main() == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["samplers"]) == {"random", "goldilocks"}
    summary = document["samplers"]["goldilocks"]
    assert summary["trials"] == [10, 30]
    assert set(summary) == {
        "trials",
        "dispatch_score",
        "dispatch_score_min",
        "global_score",
        "latency_regret",
        "seconds_per_ask",
    }
    page = table.with_suffix(".html")
    monkeypatch.setattr(sys, "argv", ["search", *words, "--seeds", "1", "--html", str(page)])
    assert main() == 0
    assert "share of the exhaustive hypervolume" in page.read_text()
    monkeypatch.setattr(sys, "argv", ["search", "replay", "absent.csv"])
    assert main() == 2


def test_a_column_that_is_no_axis_of_ours_is_one_of_the_tables(table: Path) -> None:
    lines = table.read_text().splitlines()
    cells = [line.split(",") for line in lines]
    cells[0].insert(8, "block")
    wide = [",".join(cells[0])]
    for row in cells[1:]:
        for block in ("64", "128") if row[4] == "math" else ("",):
            wide.append(",".join([*row[:8], block, *row[8:]]))
    table.write_text("\n".join(wide))
    recorded = read_table(table)
    assert recorded.unknown == ("block",)
    assert len(recorded.catalogue) == 96 + 32
    assert recorded.catalogue.choices["block"] == ("64", "128")
    first = recorded.catalogue.params(0)
    assert "block" not in first  # means nothing to the first backend
    scores = list(replay(recorded, "goldilocks", 0, (16, 128), DEVICE_PROFILES["h100"].device))
    assert scores[1].dispatch == pytest.approx(1.0)


def test_names_mean_nothing_to_the_search(table: Path, tmp_path: Path) -> None:
    # Without a prior, backends by other names are found as soon, up to ties.
    swapped = {"eager": "cudnn", "cudnn": "math", "math": "eager"}
    lines = [line.split(",") for line in table.read_text().splitlines()]
    other = tmp_path / "permuted.csv"
    other.write_text(
        "\n".join(
            ",".join([*line[:4], swapped.get(line[4], line[4]), *line[5:]]) for line in lines
        )
    )

    def score(path: Path) -> float:
        recorded = read_table(path)
        runs = [next(replay(recorded, "goldilocks", seed, (24,), None)) for seed in range(2)]
        return sum(run.dispatch for run in runs) / len(runs)

    assert score(other) == pytest.approx(score(table), abs=0.02)


def test_a_study_without_a_measurement_has_nothing_to_replay(tmp_path: Path) -> None:
    axes = {"batch": (1,), "seq_len": (512,), "backend": ("math", "flash")}
    fails = {"math": Outcome.CRASHED, "flash": Outcome.OUT_OF_MEMORY}
    of = session(InMemoryStorage(), FakeBench(fails=fails), axes=axes, sampler="sweep")
    run(of, of.survey.size)
    path = tmp_path / "failed.csv"
    as_table(read_results(of.study)).to_csv(path, index=False)
    with pytest.raises(TableError, match=r"must have a row that was measured, got \d+ without"):
        read_table(path)


def test_what_a_sweep_recorded_can_be_replayed(tmp_path: Path) -> None:
    axes = {"batch": (1, 4), "seq_len": (512,), "score_mod": ("none",), "precision": ("bf16",)}
    of = session(
        InMemoryStorage(), FakeBench(fails={"math": Outcome.CRASHED}), axes=axes, sampler="sweep"
    )
    run(of, of.survey.size)
    results = read_results(of.study)
    path = tmp_path / "swept.csv"
    as_table(results).to_csv(path, index=False)
    recorded = read_table(path)
    assert recorded.unknown == ()
    assert len(recorded.catalogue) == of.survey.size  # the defaults are no rows of the space
    recorded_by_key = {e.configuration.key: e for e in recorded.evaluations}
    for trial in results.trials:
        again = recorded_by_key[trial.evaluation.configuration.key]
        assert again.outcome is trial.evaluation.outcome
        assert again.latency_ms == trial.evaluation.latency_ms
        assert again.peak_memory_mib == trial.evaluation.peak_memory_mib
