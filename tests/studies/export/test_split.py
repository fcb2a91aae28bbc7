"""Workloads divided among a few single choices, against brute force."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.export.single import judged
from studies.export.split import split
from studies.results.front import WorkloadResult
from tests.studies.export.test_single import result
from variants.workload import Workload

PRECISIONS = ("fp32", "bf16", "fp16", "tf32")


def results_of(latencies: list[list[float]]) -> list[WorkloadResult]:
    """A workload for each row, in which each precision needs the latency of its column."""
    return [
        result(
            Workload(seq_len=128 * (place + 1)),
            {f"flash {p} static": (ms, 1.0) for p, ms in zip(PRECISIONS, row, strict=False)},
        )
        for place, row in enumerate(latencies)
    ]


@given(
    st.lists(
        st.lists(st.integers(1, 9).map(float), min_size=4, max_size=4), min_size=1, max_size=6
    )
)
def test_two_choices_leave_the_least_worst_regret_of_all_pairs(rows: list[list[float]]) -> None:
    results = results_of(rows)
    parts = split(results, "lowest_latency", 2)
    keys = [of.workload.key for of in results]
    assert sorted(of.workload.key for part in parts for of in part.results) == sorted(keys)
    singles = judged(results, "lowest_latency")
    least = min(
        max(min(one.regrets[key], other.regrets[key]) for key in keys)
        for one, other in itertools.combinations_with_replacement(singles, 2)
    )
    assert max(part.single.worst_regret for part in parts) == pytest.approx(least)


def test_more_choices_never_make_it_worse_and_end_at_no_regret() -> None:
    results = results_of([[1, 2, 3, 4], [4, 1, 2, 3], [3, 4, 1, 2], [2, 3, 4, 1]])
    worst = [
        max(part.single.worst_regret for part in split(results, "lowest_latency", count))
        for count in range(1, 6)
    ]
    assert worst == sorted(worst, reverse=True)
    assert (worst[0], worst[3]) == (3.0, 0.0)
    assert len(split(results, "lowest_latency", 9)) == 4


def test_workloads_without_a_measurement_are_left_out() -> None:
    measured, empty = results_of([[1.0, 2.0]]), result(Workload(seq_len=4096), {})
    (part,) = split([*measured, empty], "balanced", 2)
    assert part.results == tuple(measured)
    assert split([empty], "balanced", 2) == []
