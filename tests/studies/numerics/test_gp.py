"""The surrogate and the acquisition on functions that are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from studies.numerics.gp import Axes, AxesKernel, Surrogate
from studies.numerics.hypervolume import hypervolume, improvements, pareto_front
from studies.samplers.acquisition import Candidates, HypervolumeAcquisition
from studies.samplers.observations import Observations

AXES = Axes(np.array([True, True, False]), (np.arange(4.0), np.arange(3.0), None))
POINTS = st.lists(
    st.tuples(st.integers(0, 9).map(float), st.integers(0, 9).map(float)), min_size=1, max_size=8
).map(np.array)


@given(POINTS)
def test_hypervolume_is_the_cells_that_are_dominated(points: np.ndarray) -> None:
    reference = np.array([10.0, 10.0])
    cells = itertools.product(range(10), range(10))
    covered = sum(bool(((points[:, 0] <= x) & (points[:, 1] <= y)).any()) for x, y in cells)
    assert hypervolume(points, reference) == pytest.approx(covered)


@given(POINTS, st.tuples(st.integers(0, 11).map(float), st.integers(0, 11).map(float)))
def test_gain_is_the_difference_of_hypervolumes(
    front: np.ndarray, point: tuple[float, float]
) -> None:
    reference = np.array([10.0, 10.0])
    more = hypervolume(np.vstack([front, point]), reference) - hypervolume(front, reference)
    assert improvements(front, reference, np.array([point]))[0] == pytest.approx(more)
    assert improvements(np.empty((0, 2)), reference, np.array([point]))[0] == pytest.approx(
        hypervolume(np.array([point]), reference)
    )


def test_points_beyond_the_reference_count_nothing() -> None:
    assert hypervolume(np.array([[11.0, 1.0]]), np.array([10.0, 10.0])) == 0
    assert len(pareto_front(np.array([[1.0, 1.0], [1.0, 1.0], [2.0, 0.5]]))) == 2


def test_the_kernels_slopes_are_its_differences() -> None:
    rng = np.random.default_rng(0)
    points = np.c_[rng.integers(0, 3, (12, 2)), rng.integers(0, 5, 12)].astype(float)
    kernel = AxesKernel(AXES)
    here, slopes = kernel(points, eval_gradient=True)
    for index in range(len(kernel.theta)):
        moved = kernel.theta.copy()
        moved[index] += 1e-6
        difference = (AxesKernel(AXES, moved)(points) - here) / 1e-6
        np.testing.assert_allclose(slopes[..., index], difference, atol=1e-6)


def test_what_is_learnt_of_one_workload_carries_over() -> None:
    # Two named axes and one number: additive, with an axis that means nothing.
    grid = np.array(list(itertools.product(range(4), range(3), range(5))), dtype=float)
    truth = 0.4 * grid[:, 0] + 0.1 * grid[:, 2]
    rng = np.random.default_rng(1)
    seen = rng.choice(len(grid), 30, replace=False)
    surrogate = Surrogate(AXES)
    surrogate.fit_hyperparameters(grid[seen], truth[seen])
    surrogate.condition(grid[seen], truth[seen])
    rest = np.setdiff1d(np.arange(len(grid)), seen)
    mean, deviation = surrogate.predict(grid[rest])
    assert np.abs(mean - truth[rest]).max() < 0.15
    known, sure = surrogate.predict(grid[seen])
    assert np.abs(known - truth[seen]).max() < 0.02
    assert sure.max() < deviation.mean()


def problem(workloads: int = 6, variants: int = 24) -> tuple[Candidates, np.ndarray]:
    """Every workload has one variant that is best in both objectives, the same up to a pair."""
    rows = np.array(
        list(itertools.product(range(workloads), range(variants // 4), range(4))), dtype=float
    )
    memory = rows[:, 0] * 0.3 + 0.2 * (rows[:, 1] - 2) ** 2 + 0.1 * rows[:, 2]
    latency = rows[:, 0] * 0.2 + 0.2 * (rows[:, 1] - 2) ** 2 + 0.15 * np.abs(rows[:, 2] - 1)
    axes = Axes.of(rows, [False, True, True])
    of = rows[:, 0].astype(np.int64)
    return Candidates(rows, axes, of, None), np.stack([memory, latency], axis=1)


def found_after(candidates: Candidates, values: np.ndarray, trials: int, seed: int) -> list[int]:
    acquisition = HypervolumeAcquisition(candidates, seed)
    told: dict[int, tuple[float, float]] = {}
    for _ in range(trials):
        proposal = acquisition.propose(Observations(told, frozenset()))
        assert proposal is not None
        index = proposal.index
        assert index not in told
        told[index] = (float(values[index, 0]), float(values[index, 1]))
    return list(told)


def test_the_best_of_every_workload_is_found_in_a_fraction() -> None:
    candidates, values = problem()
    order = found_after(candidates, values, 36, seed=0)  # a quarter of them
    for workload in range(6):
        mine = [index for index in order if candidates.workloads[index] == workload]
        everything = values[candidates.workloads == workload]
        reference = everything.max(axis=0) + 0.05
        assert hypervolume(values[mine], reference) > 0.98 * hypervolume(everything, reference)


def test_proposals_depend_on_the_seed_and_on_what_was_told() -> None:
    candidates, values = problem()
    whole = found_after(candidates, values, 20, seed=3)
    assert found_after(candidates, values, 20, seed=3) == whole
    fresh = HypervolumeAcquisition(candidates, 3)
    told = {index: (float(values[index, 0]), float(values[index, 1])) for index in whole[:12]}
    proposal = fresh.propose(Observations(told, frozenset()))
    assert proposal is not None
    assert proposal.index == whole[12]
    assert found_after(candidates, values, 20, seed=4) != whole


def test_running_and_failed_candidates_are_not_proposed_again() -> None:
    candidates, _ = problem(workloads=1, variants=8)
    count = len(candidates.points)
    acquisition = HypervolumeAcquisition(candidates, 0)
    running, failed = frozenset(range(0, count, 2)), frozenset(range(1, count - 2, 2))
    proposal = acquisition.propose(Observations({}, failed, running))
    assert proposal is not None
    assert proposal.index == count - 1
    assert acquisition.propose(Observations({}, failed | {count - 1}, running)) is None


def test_what_resembles_failures_is_avoided() -> None:
    candidates, values = problem()
    bad = candidates.points[:, 1] == 2  # where the best would be
    told: dict[int, tuple[float, float]] = {}
    failed: set[int] = set()
    acquisition = HypervolumeAcquisition(candidates, 0)
    for _ in range(40):
        proposal = acquisition.propose(Observations(told, frozenset(failed)))
        assert proposal is not None
        index = proposal.index
        if bad[index]:
            failed.add(index)
        else:
            told[index] = (float(values[index, 0]), float(values[index, 1]))
    # They promise the most; one for each workload and a few more show that they do not hold it.
    assert len(failed) <= 14


def test_the_expected_gain_shrinks_as_the_fronts_are_found() -> None:
    candidates, values = problem()
    acquisition = HypervolumeAcquisition(candidates, 0)
    told: dict[int, tuple[float, float]] = {}
    expected = []
    for _ in range(60):
        proposal = acquisition.propose(Observations(told, frozenset()))
        assert proposal is not None
        expected.append(proposal.expected_gain)
        told[proposal.index] = (
            float(values[proposal.index, 0]),
            float(values[proposal.index, 1]),
        )
    assert expected[0] > 0.5
    assert expected[-1] < 0.01


def test_of_very_many_candidates_the_promising_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    candidates, values = problem(workloads=6, variants=400)
    monkeypatch.setattr("studies.samplers.acquisition.MOST_SCORED", 120)
    monkeypatch.setattr("studies.samplers.acquisition.MOST_CANDIDATES", 120)
    monkeypatch.setattr("studies.samplers.acquisition.MOST_SHORTLISTED_FROM", 1200)
    order = found_after(candidates, values, 60, seed=0)
    assert len(set(order)) == 60
    found = 0.0
    for workload in range(6):
        mine = [index for index in order if candidates.workloads[index] == workload]
        everything = values[candidates.workloads == workload]
        reference = everything.max(axis=0) + 0.05
        found += hypervolume(values[mine], reference) / hypervolume(everything, reference) / 6
    assert found > 0.95


def test_proposals_are_computed_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates, _ = problem(workloads=2, variants=20)
    usual, threads = HypervolumeAcquisition._rank, []

    def rank(self: HypervolumeAcquisition, told: Observations) -> object:
        threads.append({p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"})
        return usual(self, told)

    monkeypatch.setattr(HypervolumeAcquisition, "_rank", rank)
    with threadpool_limits(2, "blas"):
        assert (
            HypervolumeAcquisition(candidates, 0).propose(Observations({}, frozenset()))
            is not None
        )
        after = {p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"}
    assert threads == [{1}]
    assert after == {2}


def test_one_surprise_does_not_make_the_rest_uncertain() -> None:
    grid = np.array(list(itertools.product(range(4), range(3), range(5))), dtype=float)
    truth = 0.3 * grid[:, 0] + 0.1 * grid[:, 1]
    surprised = truth.copy()
    surprised[7] += 2.0
    deviations = []
    for values in (truth, surprised):
        surrogate = Surrogate(AXES)
        surrogate.fit_hyperparameters(grid[::2], values[::2])
        surrogate.condition(grid[::2], values[::2])
        deviations.append(float(np.median(surrogate.predict(grid[1::2])[1])))
    assert deviations[1] < 0.5


@given(st.integers(0, 1000))
def test_distances_by_matrix_products_are_the_sums_of_distances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = np.c_[rng.integers(0, 5, (20, 2)), rng.random((20, 1)) * 9, rng.integers(0, 3, 20)]
    axes = Axes.of(points, [True, False, False, False])
    weights = rng.random(4)
    few = Axes(axes.named, (*axes.levels[:2], None, axes.levels[3]))
    summed = sum(
        weight * few.distance(axis, points[:7], points) for axis, weight in enumerate(weights)
    )
    np.testing.assert_allclose(
        few.weighted_distance(weights, points[:7], points), summed, atol=1e-12
    )
    np.testing.assert_allclose(
        axes.weighted_distance(weights, points[:7], points), summed, atol=1e-12
    )
