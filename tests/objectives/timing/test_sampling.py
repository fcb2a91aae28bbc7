from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.metrics.steps import FirstVisits, new_length_ms
from objectives.timing.sampling import (
    MAX_COUNT,
    MIN_COUNT,
    NoMonitor,
    SampleMonitor,
    Stopped,
    Throttled,
    median_known,
    quantile_interval,
    quantile_of,
    sample_until,
    summarise,
)

VALUES = st.lists(st.floats(0.001, 1e3), min_size=1, max_size=60)


def sample(
    one_pass: Callable[[], list[float]], budget_s: float, monitor: SampleMonitor | None = None
) -> tuple[list[float], Stopped]:
    return sample_until(one_pass, median_known, budget_s=budget_s, monitor=monitor or NoMonitor())


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
    values, stopped = sample(lambda: [1.0] * 4, 60)
    assert (len(values), stopped) == (MIN_COUNT, "precise")


def test_nothing_is_asked_of_no_samples() -> None:
    passes = iter([[], [], [2.0]])
    asked = []

    def known(samples: Sequence[float]) -> bool:
        asked.append(list(samples))
        return False

    found = sample_until(lambda: next(passes), known, budget_s=0, monitor=NoMonitor())
    assert found == ([2.0], "time")
    assert asked == [[2.0]]


def test_noise_stops_by_count_and_slowness_by_time() -> None:
    rng = random.Random(1)
    values, stopped = sample(lambda: [rng.random()] * 8, 60)
    assert stopped == "count"
    assert len(values) == MAX_COUNT
    values, stopped = sample(lambda: [rng.random()], 0)
    assert (len(values), stopped) == (1, "time")


def test_passes_that_yield_nothing_do_not_end_sampling_empty() -> None:
    passes = iter([[], [], [1.0]])
    values, stopped = sample(lambda: next(passes), 0)
    assert values == [1.0]
    assert stopped == "time"


def test_layers_multiply_all_of_it() -> None:
    one, three = (summarise([1.0, 2.0, 3.0, 4.0], "time", layers=n) for n in (1, 3))
    assert (three.value, three.low, three.high, three.iqr) == pytest.approx(
        (3 * one.value, 3 * one.low, 3 * one.high, 3 * one.iqr)
    )


def visits(*walls_ms: float, compiled: str = "") -> FirstVisits:
    """First visits of so many ms; the compiler runs in those marked with an x."""
    return FirstVisits(list(walls_ms), [mark == "x" for mark in compiled.ljust(len(walls_ms))])


def test_a_stall_is_what_every_new_length_costs() -> None:
    later = [1.0, 1.0, 1.0, 1.0]
    assert new_length_ms(visits(900.0, 61.0, 60.0, 62.0), later, "cuda") == 59.0
    # A busy moment is not a stall: one length cost nothing extra.
    assert new_length_ms(visits(900.0, 61.0, 1.0, 62.0), later, "cuda") == 0.0
    assert new_length_ms(visits(900.0), [1.0], "cuda") is None
    assert new_length_ms(visits(900.0), [1.0], "cpu") is None


@pytest.mark.parametrize(
    ("compiled", "cost"),
    # Whatever the clock says: a busy CPU is as slow. The first compilation is everybody's.
    [("", 0.0), ("x   ", 0.0), ("xx  ", 0.0), ("xxx ", 0.0), ("xxxx", 59.0), (" xxx", 59.0)],
)
def test_on_a_cpu_a_stall_is_what_the_compiler_was_seen_to_do(compiled: str, cost: float) -> None:
    first = visits(900.0, 61.0, 60.0, 62.0, compiled=compiled)
    assert new_length_ms(first, [1.0, 1.0, 1.0, 1.0], "cpu") == cost


class Scripted:
    """Calls bursts clean or not as told, after the look before the first one."""

    reason = "too hot"

    def __init__(self, *clean: bool) -> None:
        self._answers = iter((True, *clean))
        self._left = len(clean)

    @property
    def gives_up(self) -> bool:
        return self._left < 0

    def clean(self) -> bool:
        self._left -= 1
        return next(self._answers)


def test_what_is_not_clean_is_discarded_and_taken_again() -> None:
    numbers = iter(range(1000))
    # Of the first burst nothing counts, though it alone would be precise.
    values, stopped = sample(lambda: [float(next(numbers) >= 16)] * 1, 60, Scripted(False, True))
    assert (values, stopped) == ([1.0] * MIN_COUNT, "precise")


def test_discarded_time_is_given_back_but_not_for_ever() -> None:
    rng = random.Random(1)

    def noise() -> list[float]:
        return [rng.random()]

    values, stopped = sample(noise, 0.0, Scripted(False, False, True))
    assert stopped == "time"
    assert len(values) >= 1
    values, stopped = sample(noise, 60, Scripted(True, False))
    assert (len(values), stopped) == (MIN_COUNT, "throttled")
    with pytest.raises(Throttled, match="too hot"):
        sample(noise, 60, Scripted(False))
