"""Shares and their intervals on functions that are known."""

from __future__ import annotations

import numpy as np
import pytest

from studies.numerics.interval import Interval
from studies.sensitivity.quality import FLOOR, LEAST_PROBES, Quality
from tests.studies.sensitivity.known_answers import CASES, search


@pytest.mark.parametrize("case", CASES)
def test_intervals_hold_known_answers(case: str) -> None:
    found = [search(case, seed) for seed in range(2)]
    assert np.mean([covered for one in found for covered in one.covered()]) >= 0.86
    for one in found:
        truth = max(one.truth.values(), key=lambda share: share.total.value)
        assert one.shares[0].total.value == pytest.approx(truth.total.value, abs=0.12)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_nominal_intervals_cover_in_fifty_repeats(case: str) -> None:
    found = [search(case, seed) for seed in range(50)]
    covered = np.array([one.covered() for one in found if one.quality.refusal is None])
    print(f"{case}: {len(covered)} ranked; alone, total of each axis: {covered.mean(axis=0)}")
    assert len(covered) >= 40
    assert covered.mean(axis=0).min() >= 0.86


def test_few_probes_are_refused_and_counted() -> None:
    found = search("additive", 0, probes=LEAST_PROBES - 3, chosen=100)
    assert found.quality.refusal is not None
    assert "13 of its 113 trials are probes" in found.quality.refusal
    assert found.quality.more_probes == 3


def test_a_surrogate_that_predicts_badly_is_refused() -> None:
    found = search("interaction only", 1, probes=20, chosen=5)
    assert found.quality.r_squared is not None
    assert found.quality.r_squared.value < FLOOR
    assert found.quality.refusal is not None
    assert f"below {FLOOR}" in found.quality.refusal
    assert found.quality.more_probes == 20


def test_what_is_measured_altogether_is_exact() -> None:
    quality = Quality(trials=10, probes=10, exact=True)
    assert (quality.refusal, quality.more_probes) == (None, 0)
    passed = Quality(50, 20, exact=False, r_squared=Interval(0.9, 0.8, 0.95))
    assert passed.refusal is None
