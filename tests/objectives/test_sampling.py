from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.latency import new_length_ms
from objectives.sampling import (
    MAX_COUNT,
    MIN_COUNT,
    quantile_interval,
    quantile_of,
    sample_until_known,
    summarise,
)

VALUES = st.lists(st.floats(0.001, 1e3), min_size=1, max_size=60)


@given(VALUES)
def test_median_is_the_median_and_lies_in_its_interval(values: list[float]) -> None:
    median = quantile_of(values, 0.5)
    assert median == pytest.approx(statistics.median(values))
    low, high = quantile_interval(values, 0.5)
    assert low <= median <= high


def test_interval_covers_the_median_about_95_percent_of_the_time() -> None:
    rng = random.Random(1)
    hits = 0
    for _ in range(2000):
        low, high = quantile_interval([rng.expovariate(1) for _ in range(40)], 0.5)
        hits += low <= 0.6931471805599453 <= high
    assert 0.94 <= hits / 2000 <= 0.99


def test_steady_values_stop_as_soon_as_they_may() -> None:
    values, stopped = sample_until_known(lambda: [1.0] * 4, budget_s=60)
    assert (len(values), stopped) == (MIN_COUNT, "precise")


def test_noise_stops_by_count_and_slowness_by_time() -> None:
    rng = random.Random(1)
    values, stopped = sample_until_known(lambda: [rng.random()] * 8, budget_s=60)
    assert stopped == "count"
    assert len(values) == MAX_COUNT
    values, stopped = sample_until_known(lambda: [rng.random()], budget_s=0)
    assert (len(values), stopped) == (1, "time")


def test_passes_that_yield_nothing_do_not_end_sampling_empty() -> None:
    passes = iter([[], [], [1.0]])
    values, stopped = sample_until_known(lambda: next(passes), budget_s=0)
    assert values == [1.0]
    assert stopped == "time"


def test_layers_multiply_all_of_it() -> None:
    one, three = (summarise([1.0, 2.0, 3.0, 4.0], "time", layers=n) for n in (1, 3))
    assert (three.value, three.low, three.high, three.iqr) == pytest.approx(
        (3 * one.value, 3 * one.low, 3 * one.high, 3 * one.iqr)
    )


def test_a_stall_is_what_every_new_length_costs() -> None:
    assert new_length_ms([900.0, 61.0, 60.0, 62.0], [1.0, 1.0, 1.0, 1.0]) == 59.0
    # A busy moment is not a stall: one length cost nothing extra.
    assert new_length_ms([900.0, 61.0, 1.0, 62.0], [1.0, 1.0, 1.0, 1.0]) == 0.0
    assert new_length_ms([900.0], [1.0]) is None
