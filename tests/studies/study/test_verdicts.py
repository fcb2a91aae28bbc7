"""Verdicts against simulated times, with noise as it was seen on an H100."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.schema.comparison import MIN_ROUNDS
from objectives.timing.compare import Turn, take_turns
from objectives.timing.sampling import NoMonitor
from studies.study.verdicts import (
    FEWEST_OF_BOOTSTRAP,
    MARGIN,
    judge_across,
    judge_rounds,
    word_of,
)

PLACE = 0.004  # deviation of what another place in memory does to a time
PAIRS = 150


class Timed:
    """One built configuration: passes with noise, and now and then something else runs."""

    def __init__(
        self, rng: np.random.Generator, drift: Drift, noise: float, slower: float
    ) -> None:
        self._rng, self._drift, self._noise = rng, drift, noise
        self._time = slower * float(np.exp(rng.normal(0, PLACE)))

    def __call__(self) -> Turn:
        time = self._time * self._drift() * float(np.exp(self._rng.normal(0, self._noise)))
        if self._rng.random() < 0.03:
            time *= 1.3
        return Turn(time, time / 2)


class Drift:
    """The device, which wanders slowly, and meets all configurations alike."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng, self._log = rng, 0.0

    def __call__(self) -> float:
        self._log += self._rng.normal(0, 0.001)
        return float(np.exp(self._log))


def words(slower: float, noise: float, seed: int) -> Counter[str]:
    """Time pairs in turns until their ratio is known, and count the verdicts."""
    rng = np.random.default_rng(seed)
    found: Counter[str] = Counter()
    for _ in range(PAIRS):
        drift = Drift(rng)
        passes = [Timed(rng, drift, noise, times) for times in (1.0, slower)]
        theirs, ours = take_turns(
            passes, budget_s=60, rng=random.Random(seed), monitor=NoMonitor()
        )
        found[judge_rounds([t.latency_ms for t in ours], [t.latency_ms for t in theirs]).word] += 1
    return found


@pytest.mark.parametrize("noise", [0.003, 0.01, 0.02])
def test_the_same_twice_is_the_same(noise: float) -> None:
    assert words(1.0, noise, 1)["same"] >= 0.98 * PAIRS


@pytest.mark.parametrize("noise", [0.003, 0.01, 0.02])
def test_five_percent_slower_is_slower(noise: float) -> None:
    found = words(1.05, noise, 2)
    assert found["slower"] >= 0.95 * PAIRS
    assert found["unclear"] <= 0.1 * PAIRS
    assert words(1 / 1.05, noise, 3)["faster"] >= 0.95 * PAIRS


def test_noise_that_hides_the_difference_is_unclear_and_never_the_opposite() -> None:
    found = words(1.05, 0.4, 4)
    assert found["unclear"] > 0.5 * PAIRS
    assert found["faster"] < 0.05 * PAIRS


def test_the_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(400):
        ours, theirs = (list(np.exp(rng.normal(mean, 0.02, 40))) for mean in (0.1, 0.0))
        verdict = judge_rounds(ours, theirs)
        hits += verdict.low <= np.exp(0.1) <= verdict.high
    assert 0.90 <= hits / 400 <= 0.985


def test_through_a_third_the_noise_of_both_counts() -> None:
    rng = np.random.default_rng(6)
    ours, ours_base, theirs, theirs_base = (
        list(np.exp(rng.normal(mean, 0.01, 50))) for mean in (0.1, 0.0, 0.15, 0.05)
    )
    across = judge_across(ours, ours_base, theirs, theirs_base)
    alone = judge_rounds(ours, ours_base)
    assert across.word == "same"
    assert across.high / across.low > alone.high / alone.low
    assert alone.word == "slower"


@given(st.floats(0.5, 2), st.floats(0.5, 1), st.floats(1, 2))
def test_exactly_one_word_fits_and_turned_round_its_opposite(
    ratio: float, below: float, above: float
) -> None:
    low, high = ratio * below, ratio * above
    opposite = {"faster": "slower", "slower": "faster"}
    word = word_of(ratio, low, high)
    turned = word_of(1 / ratio, 1 / high, 1 / low)
    assert turned == opposite.get(word, word)
    if word == "same":
        assert 1 / (1 + MARGIN) < low <= high < 1 + MARGIN


@pytest.mark.parametrize("rounds", [MIN_ROUNDS, FEWEST_OF_BOOTSTRAP - 1])
def test_of_few_rounds_all_must_say_the_same(rounds: int) -> None:
    base = [1.0] * rounds
    slower = [1.04, *[1.05] * (rounds - 2), 1.07]
    found = judge_rounds(slower, base)
    assert (found.word, found.low, found.high) == (
        "slower",
        pytest.approx(1.04),
        pytest.approx(1.07),
    )
    assert judge_rounds([0.99, *slower[1:]], base).word == "unclear"
    across = judge_across(slower, base, base, [1.0, *[1.01] * (rounds - 1)])
    assert (across.low, across.high) == (pytest.approx(1.04), pytest.approx(1.07 * 1.01))


def test_few_rounds_tell_nothing_and_unpaired_ones_are_refused() -> None:
    # The median lies outside of the range where all of them are on one side of it.
    assert 2 * 0.5**MIN_ROUNDS < 0.05 < 2 * 0.5 ** (MIN_ROUNDS - 1)
    few: Sequence[float] = [1.0] * (MIN_ROUNDS - 1)
    assert judge_rounds(few, few).word == "unclear"
    assert judge_rounds([1.0] * MIN_ROUNDS, [1.0] * MIN_ROUNDS).word == "same"
    with pytest.raises(ValueError, match="paired, got 2 and 1"):
        judge_rounds([1.0, 1.0], [1.0])
