"""The posterior over a grid, against the textbook's formulas on dense matrices."""

from __future__ import annotations

import numpy as np
import pytest

from studies.numerics.gp import Axes, AxesKernel
from studies.sensitivity.posterior import Field, Grid, Posterior
from tests.studies.sensitivity.known_answers import full

RNG = np.random.default_rng(0)
POINTS = full(3, 4, 2, 3).astype(np.float64)[np.sort(RNG.permutation(72)[:50])]
AXES = Axes.of(POINTS, [True, False, True, True])
GRID = Grid(POINTS, AXES, np.array([True, True, False, False]))
PRIOR = RNG.normal(size=50)
LOG = np.log(np.array([0.3, 0.8, 0.2, 0.5, 0.1, 1e-3]))
KNOWN = RNG.permutation(50)[:15]
VALUES = RNG.normal(size=15)


def test_the_grid_holds_every_point_in_a_cell_of_its_own() -> None:
    assert GRID.shape[1:] == (2, 3)
    assert len(np.unique(GRID.cells)) == len(POINTS)
    weights = np.exp(LOG[:-2])
    kernel = AxesKernel(AXES, np.r_[LOG[:-2], 0.0, -np.inf])(POINTS, POINTS)
    spread = np.zeros((GRID.size, 50))
    spread[GRID.cells, np.arange(50)] = 1
    product = GRID.times(GRID.kernels(weights), spread)[GRID.cells]
    np.testing.assert_allclose(product, kernel, atol=1e-12)


@pytest.mark.parametrize("prior", [None, PRIOR])
def test_mean_and_deviations_are_those_of_the_dense_process(prior: np.ndarray | None) -> None:
    field = Field(POINTS, AXES, GRID, prior)
    posterior = Posterior(field, KNOWN, VALUES, LOG)
    mean, variance = posterior.at(np.arange(50))
    np.testing.assert_allclose(posterior.mean(), mean, atol=1e-8)
    drawn = posterior.deviations(6000, np.random.default_rng(1))
    np.testing.assert_allclose(drawn.mean(axis=1), 0, atol=0.06)
    np.testing.assert_allclose(
        drawn.std(axis=1), np.sqrt(variance - np.exp(LOG[-1])), rtol=0.06, atol=0.005
    )


def test_what_was_measured_is_known_and_the_rest_is_not() -> None:
    posterior = Posterior(Field(POINTS, AXES, GRID, PRIOR), KNOWN, VALUES, LOG)
    rest = np.setdiff1d(np.arange(50), KNOWN)
    deviations = posterior.deviations(64, np.random.default_rng(0)).std(axis=1)
    assert np.abs(posterior.mean()[KNOWN] - VALUES).max() < 0.2
    assert deviations[KNOWN].max() < 2 * np.exp(LOG[-1] / 2) < deviations[rest].min()


def test_an_offset_of_all_values_moves_the_mean_alone() -> None:
    field = Field(POINTS, AXES, GRID, PRIOR)
    one, moved = (Posterior(field, KNOWN, VALUES + by, LOG) for by in (0.0, 5.0))
    np.testing.assert_allclose(moved.mean(), one.mean() + 5, atol=1e-8)
