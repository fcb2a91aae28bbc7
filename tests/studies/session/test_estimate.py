"""How long is left, told by trials of scripted durations."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from objectives.schema.evaluation import Evaluation, Outcome
from studies.session.estimate import (
    ANCHOR_S,
    FINALIST_SHARE,
    OWN_S,
    SECONDS_A_TRIAL,
    START_S,
    TrialPace,
    estimate_s,
)
from studies.space.defaults import DEFAULT_AXES
from studies.space.space import Survey, fill_defaults, survey
from studies.study.trials import FinishedTrial
from variants.configuration import Configuration
from variants.device import DEVICE_PROFILES

PLAIN_S, COMPILED_S = 0.5, 12.0  # of a trial: on this machine all is otherwise than elsewhere


@pytest.fixture(scope="module")
def space() -> Survey:
    axes = {
        "batch": (1, 4),
        "seq_len": (512,),
        "score_mod": ("none",),
        "backend": ("flash", "flex"),
        "precision": ("fp32", "bf16"),
    }
    return survey(fill_defaults(axes, DEFAULT_AXES["cuda"]), DEVICE_PROFILES["h100"].device)


def took(configuration: Configuration) -> Evaluation:
    seconds = COMPILED_S if configuration.variant.compiles else PLAIN_S
    stages = {"first step": seconds - OWN_S - 0.1, "latency": 0.1}
    return Evaluation(configuration=configuration, outcome=Outcome.MEASURED, seconds=stages)


def all_of(space: Survey, seed: int = 0) -> list[Evaluation]:
    found = [
        took(Configuration(workload=workload, variant=variant))
        for workload in space.workloads
        for variant in space.possible[workload.key]
    ]
    random.Random(seed).shuffle(found)
    return found


def seconds_of(trials: Sequence[Evaluation]) -> float:
    return sum(sum(trial.seconds.values()) + OWN_S for trial in trials)


def test_a_sweep_knows_what_is_left_whatever_came_first(space: Survey) -> None:
    for order in (False, True):
        trials = sorted(all_of(space), key=lambda e: e.configuration.variant.compiles is order)
        pace = TrialPace.of(space, "cuda")
        pace.begin = now = 0.0
        kinds = [trial.configuration.variant.compiles for trial in trials]
        half = kinds.index(not kinds[0]) + 6  # some of both kinds are known
        for trial in trials[:half]:
            pace.tell(trial)
            now += seconds_of([trial])
        left = trials[half:]
        assert pace.left_s(len(left), now=now) == pytest.approx(seconds_of(left), rel=0.2)


def test_a_part_of_a_space_is_estimated_by_the_kinds_of_its_trials(space: Survey) -> None:
    trials = all_of(space)
    done, left = trials[:20], trials[20:40]
    pace = TrialPace.of(space, "cuda")
    pace.begin = 0.0
    for trial in done:
        pace.tell(trial)
    now = 1.3 * seconds_of(done)  # what lies between the trials
    expected = 1.3 * seconds_of(left)
    assert pace.left_s(len(left), now=now) == pytest.approx(expected, rel=0.35)


def test_two_devices_need_half_the_time(space: Survey) -> None:
    pace = TrialPace.of(space, "cuda")
    pace.begin = 0.0
    assert pace.left_s(10, workers=2) == pytest.approx(pace.left_s(10, workers=1) / 2)
    for trial in all_of(space)[:20]:
        pace.tell(trial)
    spent = seconds_of(all_of(space)[:20])
    one, two = (pace.left_s(10, workers=n, now=spent / n) for n in (1, 2))
    assert two == pytest.approx(one / 2)


def test_a_new_study_counts_starts_defaults_compilation_and_finalists(space: Survey) -> None:
    plain, compiled = SECONDS_A_TRIAL["cuda"]
    share = sum(e.configuration.variant.compiles for e in all_of(space)) / space.size
    each = share * compiled + (1 - share) * plain
    trials = 20
    measured = START_S + 2 * ANCHOR_S + 2 * plain + trials * each
    assert estimate_s(space, "cuda", trials, finalists=False) == pytest.approx(measured)
    finals = FINALIST_SHARE * 2 * (1 + 8) * each
    assert estimate_s(space, "cuda", trials) == pytest.approx(measured + finals)


def test_a_resumed_study_goes_by_what_its_own_trials_took(space: Survey) -> None:
    trials = all_of(space)
    told = [FinishedTrial(n, evaluation, 0, "here") for n, evaluation in enumerate(trials[:40])]
    left = trials[40:]
    found = estimate_s(space, "cuda", space.size, finalists=False, told=told)
    assert found == pytest.approx(START_S + 2 * ANCHOR_S + seconds_of(left), rel=0.25)
    assert estimate_s(space, "cuda", 40, told=told) == START_S + 2 * ANCHOR_S
    assert estimate_s(space, "cuda", 40, told=told, due=2) > START_S + 2 * ANCHOR_S + 5


def test_what_is_left_falls_to_nothing(space: Survey) -> None:
    trials = all_of(space)
    pace = TrialPace.of(space, "cuda")
    pace.begin = 0.0
    spent = list(itertools.accumulate(seconds_of([trial]) for trial in trials))
    errors = []
    for place, (trial, now) in enumerate(zip(trials, spent, strict=True), 1):
        pace.tell(trial)
        left = pace.left_s(len(trials) - place, now=now)
        if 10 <= place < len(trials) - 10:
            errors.append(abs(left / (spent[-1] - now) - 1))
    assert left == 0
    assert max(errors) < 0.35
