"""Searches by many workers on a clock of their own, and what is said of them."""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial

from search.cli import main
from studies.numerics.arrays import Matrix
from studies.numerics.gp import Surrogate
from studies.replay.durations import Durations, durations_of
from studies.replay.replay import Scorer, replay, study_of
from studies.replay.scaling import Course, course_of, scaling_of, speed_ups
from studies.replay.simulation import SimulatedTrial, replay_in_virtual_time
from studies.replay.table import RecordedTable, read_table
from studies.samplers.observations import Observations
from studies.samplers.ordered import OrderedSampler
from studies.samplers.samplers import SAMPLERS
from studies.space.catalogue import Catalogue
from studies.study.baseline import WorkloadBaseline
from studies.study.trials import ask, tell
from tests.recorded_tables import with_columns
from variants.device import DEVICE_PROFILES

H100 = DEVICE_PROFILES["h100"].device


def constant(recorded: RecordedTable, seconds: float) -> Durations:
    return Durations(np.full(len(recorded.catalogue), seconds), "")


def free() -> float:
    """A clock by which asks take no time."""
    return 0.0


def ticking(seconds: float) -> Callable[[], float]:
    """A clock by which every ask takes so long."""
    return itertools.count(0.0, seconds).__next__


def searched(
    recorded: RecordedTable,
    durations: Durations,
    workers: int,
    trials: int,
    sampler: str = "goldilocks",
    clock: Callable[[], float] = free,
    seed: int = 0,
) -> list[SimulatedTrial]:
    return list(
        replay_in_virtual_time(
            recorded, durations, sampler, seed, workers, trials, H100, clock=clock
        )
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_worker_is_the_search_as_it_was(table: Path, sampler: str) -> None:
    recorded = read_table(table)
    finished = searched(recorded, durations_of(recorded), 1, 30, sampler, ticking(0.1))
    study = study_of(recorded, sampler, 0, H100)
    for one in finished:
        trial = ask(study)
        index = recorded.catalogue.find(trial.params)
        assert index is not None
        assert recorded.evaluations[index] is one.evaluation
        tell(study, trial, one.evaluation, WorkloadBaseline(1.0, 1.0, True))
    scores = Scorer(recorded).history(one.evaluation for one in finished)
    for score in replay(recorded, sampler, 0, (1, 10, 30), H100):
        assert scores[score.trials - 1] == score.dispatch


@pytest.mark.parametrize("workers", [1, 3, 8, 20, 1000])
def test_equal_trials_are_done_in_rounds(table: Path, workers: int) -> None:
    recorded = read_table(table)
    finished = searched(recorded, constant(recorded, 2.0), workers, 20, "random")
    rounds = -(-20 // workers)
    assert len(finished) == 20
    assert finished[-1].ended == 2.0 * rounds
    sizes = Counter(one.ended for one in finished)
    assert sizes == {2.0 * (r + 1): min(workers, 20 - workers * r) for r in range(rounds)}


@pytest.mark.parametrize(("workers", "end"), [(1, 80.0), (2, 41.0), (64, 41.0)])
def test_workers_ask_one_at_a_time(table: Path, workers: int, end: float) -> None:
    # 40 asks of half a second each, as long for what comes next, and 1.5 s to measure: two workers
    # do all that can be done. One makes no proposal before it can be measured.
    recorded = read_table(table)
    finished = searched(recorded, constant(recorded, 1.5), workers, 40, "random", ticking(0.5))
    assert finished[-1].ended == end
    asks = sorted((one.asked, one.begun) for one in finished)
    assert all(begun - asked == 0.5 for asked, begun in asks)
    assert {one.freed - one.asked for one in finished} == {0.5 if workers == 1 else 1.0}
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(asks))


def test_trials_are_told_when_they_end(table: Path) -> None:
    recorded = read_table(table)
    durations = Durations(1.0 + np.arange(96) % 7, "")
    finished = searched(recorded, durations, 5, 60, "random", ticking(0.25))
    assert [one.ended for one in finished] == sorted(one.ended for one in finished)
    of = {
        id(e): seconds for e, seconds in zip(recorded.evaluations, durations.seconds, strict=True)
    }
    assert all(one.ended == one.begun + of[id(one.evaluation)] for one in finished)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_everything_is_tried_once(table: Path, sampler: str) -> None:
    recorded = read_table(table)
    finished = searched(recorded, durations_of(recorded), 7, 1000, sampler, ticking(0.1))
    tried = Counter(one.evaluation.configuration.key for one in finished)
    assert len(tried) == tried.total() == 96


def test_a_seed_says_all(table: Path) -> None:
    recorded = read_table(table)

    def keys(seed: int) -> list[tuple[str, float]]:
        found = searched(recorded, durations_of(recorded), 6, 40, seed=seed, clock=ticking(0.1))
        return [(one.evaluation.configuration.key, one.ended) for one in found]

    assert keys(1) == keys(1)
    assert keys(1) != keys(2)


def test_asks_see_what_was_told_and_what_is_running(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    choose = OrderedSampler.choose

    def watched(
        self: OrderedSampler, study: optuna.Study, trial: FrozenTrial, told: Observations
    ) -> int:
        seen.append((len(told.failed | told.values.keys()), len(told.running)))
        return choose(self, study, trial, told)

    monkeypatch.setattr(OrderedSampler, "choose", watched)
    recorded = read_table(table)
    searched(recorded, constant(recorded, 1.0), 4, 10, "random")
    one_round = [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert seen == [(told + 4 * r, n) for r in range(3) for told, n in one_round][:10]


def test_an_ask_looks_at_a_running_trial_once(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    find = Catalogue.find

    def counted(self: Catalogue, params: dict[str, object]) -> int | None:
        nonlocal looks
        looks += 1
        return find(self, params)

    monkeypatch.setattr(Catalogue, "find", counted)
    recorded = read_table(table)
    searched(recorded, constant(recorded, 1.0), 80, 80, "random")
    assert looks <= 3 * 80  # once as it runs, once when it is told, once by the replay


def test_what_is_running_is_predicted_by_its_mean_alone(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    predict = Surrogate.predict

    def watched(self: Surrogate, points: Matrix) -> tuple[Matrix, Matrix]:
        sizes.append(len(points))
        return predict(self, points)

    monkeypatch.setattr(Surrogate, "predict", watched)
    recorded = read_table(table)
    searched(recorded, constant(recorded, 1.0), 40, 50)
    assert max(sizes) <= 96 - 40  # asks after the first 40 were told
    assert min(sizes) < 96 - 40  # and after others began: those are not among them


def test_what_workers_gain_is_what_it_says(table: Path) -> None:
    one = [Course((1.0, 2.0, 4.0), (0.5, 0.92, 0.96), 0.5, 0.1)] * 2
    many = [
        Course((0.5, 1.0, 1.5), (0.5, 0.96, 0.99), 3.0, 0.2),
        Course((0.5, 1.0, 2.5), (0.5, 0.92, 0.96), 5.0, 0.4),
    ]
    assert one[0].reached(0.5) == 1.0
    assert one[0].reached(0.97) is None
    scalings = scaling_of(one), scaling_of(many)
    assert scalings[0].seconds_to == (2.0, 4.0, None, None)
    assert scalings[1].seconds_to == (1.0, 1.75, None, None)  # one of two reached .98 and .99
    assert speed_ups(*scalings) == (2.0, 4.0 / 1.75, None, None)
    assert (scalings[1].trials, scalings[1].wall_seconds) == (3, 2.0)
    assert scalings[1].dispatch_score == pytest.approx(0.975)
    assert scalings[1].busy_workers == 4.0
    assert scalings[1].seconds_per_ask == pytest.approx(0.3)
    recorded = read_table(table)
    finished = searched(recorded, constant(recorded, 3.0), 2, 10, "random", ticking(1.0))
    course = course_of(Scorer(recorded), finished)
    assert course.busy_workers == pytest.approx(10 * 3 / finished[-1].ended)
    assert course.seconds_per_ask == 2.0  # and the next proposal


def test_the_command_says_what_more_workers_buy(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["replay", str(table), "--trials", "10,96", "--seeds", "2", "--sampler", "random"]

    def output(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", ["search", *words, *more])
        assert main() == 0
        return capsys.readouterr().out

    before = json.loads(output("--json"))
    document = json.loads(output("--json", "--workers", "8, 1,200,8"))
    workers = document.pop("workers")
    for each in (before, document):
        each["samplers"]["random"].pop("seconds_per_ask")  # measured
    assert document == before
    assert set(workers) == {"durations", "asks", "samplers"}
    found = workers["samplers"]["random"]
    assert found["workers"] == [1, 8, 200]
    assert found["trials"] == [96, 96, 96]
    assert found["dispatch_score"][0] == before["samplers"]["random"]["dispatch_score"][-1]
    assert set(found["seconds_to"]) == set(found["speed_up"]) == {"0.9", "0.95", "0.98", "0.99"}
    assert found["speed_up"]["0.9"][0] is None  # one worker itself
    assert 1 < found["speed_up"]["0.9"][1] < 9
    assert 1 < found["wall_seconds"][0] / found["wall_seconds"][1] < 9
    assert 0 < found["busy_workers"][0] <= 1 < found["busy_workers"][1] <= 8
    page = table.with_suffix(".html")
    shown = output("--workers", "1,8", "--html", str(page))
    assert "what more GPUs buy with random" in shown
    assert "96 configurations take 0.55 s and 40 steps" in " ".join(shown.split())
    drawn = page.read_text()
    assert "virtual wall time" in drawn
    assert "8 workers" in drawn
    assert "virtual" not in output()


@pytest.mark.parametrize("text", ["0", "x", "1,,2", "-1", "1.5", "", "²", "9" * 5000])
def test_workers_are_positive_integers(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["search", "replay", str(table), f"--workers={text}"])
    assert main() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --workers must be positive integers, got")
    assert error.count("\n") == 1


def test_times_matter_to_workers_alone(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_columns(table, {"compile_s": ["0.1"] * 95 + ["soon"]})
    words = ["search", "replay", str(table), "--sampler", "random", "--trials", "5"]
    monkeypatch.setattr(sys, "argv", words)
    assert main() == 0
    monkeypatch.setattr(sys, "argv", [*words, "--workers", "2"])
    capsys.readouterr()
    assert main() == 2
    assert "number of seconds, got soon" in capsys.readouterr().err
