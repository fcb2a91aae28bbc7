"""Replays on a recorded table, and what is scored."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import pytest

from objectives.prior import Prediction, predict
from search.cli import main
from studies.recorded import TableError, read_table
from studies.replay import Scorer, replay
from studies.samplers import SAMPLERS
from variants.configuration import Configuration
from variants.device import DEVICE_PROFILES, Device

HEADER = (
    "phase,batch,seq_len,score_mod,backend,precision,cache,execution,status,peak_bytes,latency_ms"
)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Every combination of a small space; a graph of a half-precision static cache is best."""
    rows = [HEADER]
    for batch, seq_len, mod, backend, precision, cache, execution in itertools.product(
        (1, 8),
        (512, 4096),
        ("none", "alibi"),
        ("eager", "math", "cudnn"),
        ("fp32", "bf16"),
        ("none", "static"),
        ("eager", "cuda_graph"),
    ):
        size = batch * seq_len * (2 if precision == "fp32" else 1) * (9 if cache == "none" else 1)
        peak = 1e6 + 1000 * size * (1 if backend == "cudnn" else 3)
        latency = 1e-5 * size + (0.05 if execution == "cuda_graph" else 0.3)
        status = "oom" if peak > 5e8 else "ok"
        numbers = f"{peak},{latency}" if status == "ok" else ","
        rows.append(
            f"decode,{batch},{seq_len},{mod},{backend},{precision},{cache},{execution},"
            f"{status},{numbers}"
        )
    path = tmp_path / "table.csv"
    path.write_text("\n".join(rows))
    return path


def test_a_table_is_its_rows(table: Path) -> None:
    recorded = read_table(table)
    assert recorded.survey.size == len(table.read_text().splitlines()) - 1 == 192
    assert len(recorded.survey.workloads) == 8
    assert {e.outcome.value for e in recorded.evaluations.values()} == {
        "MEASURED",
        "OUT_OF_MEMORY",
    }


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_ends_at_all_there_is(table: Path, sampler: str) -> None:
    recorded = read_table(table)
    scores = list(replay(recorded, sampler, 0, (20, 1000), DEVICE_PROFILES["h100"].device))
    assert [score.trials for score in scores] == [20, 192]
    assert 0 < scores[0].dispatch <= 1
    assert scores[1].dispatch == pytest.approx(1.0)
    assert scores[1].overall == pytest.approx(1.0)
    assert scores[1].latency_regret == pytest.approx(0.0)


def test_scores_are_what_they_say(table: Path) -> None:
    recorded = read_table(table)
    evaluations = list(recorded.evaluations.values())
    of_one = [e for e in evaluations if e.configuration.workload == recorded.survey.workloads[0]]
    score = Scorer(recorded).score(of_one, 0.5)
    assert score.dispatch == pytest.approx(1 / 8)  # a workload that was not served counts 0
    assert score.seconds_per_ask == 0.5
    assert Scorer(recorded).score([], 0.0).dispatch == 0


def upside_down(configuration: Configuration, device: Device) -> Prediction:
    right = predict(configuration, device)
    return Prediction(1 / right.latency_ms, 1 / right.memory_mib)


def test_goldilocks_is_ahead_of_random_even_with_a_wrong_prior(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = read_table(table)

    def at_24(sampler: str, profile: str | None) -> float:
        device = None if profile is None else DEVICE_PROFILES[profile].device
        found = [
            next(replay(recorded, sampler, seed, (24,), device)).dispatch for seed in range(3)
        ]
        return sum(found) / 3

    assert at_24("goldilocks", "h100") > 0.95
    assert at_24("goldilocks", None) > at_24("random", None)
    assert at_24("goldilocks", "cpu") > at_24("random", None)
    monkeypatch.setattr("studies.surrogate_sampler.predict", upside_down)
    assert at_24("goldilocks", "h100") > at_24("random", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch,status\n1,ok", "columns must include peak_bytes, latency_ms"),
        (
            HEADER
            + ",block\n"
            + "decode,1,8,none,math,fp32,none,eager,ok,1,1,8\n" * 1
            + "decode,1,8,none,math,fp32,static,eager,ok,1,1,9",
            "must be axes, got block",
        ),
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
    assert "192 configurations of 8 workloads, 2 seeds" in capsys.readouterr().out
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
    monkeypatch.setattr(sys, "argv", ["search", "replay", "absent.csv"])
    assert main() == 2
