"""Effects over a population, against values computed by hand and by other means."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from studies.sensitivity.population import Population
from tests.studies.sensitivity.known_answers import (
    additive,
    conditional,
    full,
    interaction_only,
    of_conditional,
)


def test_an_additive_function_has_its_shares_and_no_interaction() -> None:
    codes = full(4, 4, 3, 3, 2, 2)
    values = additive(codes)[:, None]
    population = Population(codes)
    # Variances of 0.5·{0,1,2,3}, of 0.2·{0,1,0,2} and of 0.1·{0,1,0}.
    parts = np.array([0.3125, 0.0275, 0.01 * 2 / 9, 0, 0, 0])
    whole = population.variance_within((), values)[0]
    assert whole == pytest.approx(parts.sum())
    for axis, part in enumerate(parts):
        assert population.alone(axis, (), values)[0] == pytest.approx(part, abs=1e-12)
        assert population.total(axis, values)[0] == pytest.approx(part, abs=1e-12)
    for one, other in itertools.combinations(range(6), 2):
        assert population.interaction(one, other, values)[0] == pytest.approx(0, abs=1e-12)


def test_two_axes_that_only_act_together() -> None:
    codes = full(4, 4, 3, 3, 2, 2)
    values = interaction_only(codes)[:, None]
    population = Population(codes)
    for axis in (0, 1):
        assert population.alone(axis, (), values)[0] == pytest.approx(0)
        assert population.total(axis, values)[0] == pytest.approx(0.25)
    assert population.interaction(0, 1, values)[0] == pytest.approx(0.25)
    assert population.interaction(0, 2, values)[0] == pytest.approx(0)


@given(hnp.arrays(np.float64, 24, elements=st.floats(-5, 5, width=32)))
@settings(max_examples=50)
def test_of_a_full_grid_interactions_are_superset_importances(values: np.ndarray) -> None:
    population = Population(full(2, 3, 4))
    draws = values[:, None]
    for one, other in itertools.combinations(range(3), 2):
        together = population.variance_within([3 - one - other], draws)
        superset = population.total(one, draws) + population.total(other, draws) - together
        assert population.interaction(one, other, draws)[0] == pytest.approx(superset[0], abs=1e-9)


@given(hnp.arrays(np.float64, 60, elements=st.floats(-5, 5, width=32)), st.integers(0, 9))
@settings(max_examples=30)
def test_shares_of_any_part_of_a_grid_are_shares(values: np.ndarray, seed: int) -> None:
    codes = full(3, 4, 5)
    kept = np.sort(np.random.default_rng(seed).permutation(60)[:40])
    population, draws = Population(codes[kept]), values[kept][:, None]
    whole = population.variance_within((), draws)[0]
    assert whole == pytest.approx(values[kept].var(), abs=1e-9)
    for axis in range(3):
        assert -1e-9 <= population.alone(axis, (), draws)[0] <= whole + 1e-9
        assert -1e-9 <= population.total(axis, draws)[0] <= whole + 1e-9


def test_missing_combinations_are_no_interaction() -> None:
    # Like a backend that takes half precision alone.
    codes = np.array([[1, 1], [1, 2], [2, 2], [3, 1], [3, 2]])
    values = (1.0 * codes[:, 0] + 10.0 * codes[:, 1])[:, None]
    assert Population(codes).interaction(0, 1, values)[0] == pytest.approx(0, abs=1e-9)


def test_an_axis_that_means_nothing_changes_nothing_there() -> None:
    codes = conditional()
    population, values = Population(codes), of_conditional(codes)[:, None]
    lacking = codes[:, 1] == 1
    # Where the third axis is active, a third of its configurations have 0.25 more.
    active = 1 - lacking.mean()
    assert population.total(2, values)[0] == pytest.approx(active * 0.25**2 * 2 / 9)
    # Its choices are compared where it is active; beside the second's first choice all of them
    # are the same configuration.
    contrast = population.contrast(2, 3, 1)
    assert contrast is not None
    assert contrast.weights @ values[:, 0] == pytest.approx(0.25)
    assert not lacking[contrast.chosen].any()
    # The second axis is compared with choices that lack the third: each stands for all of them.
    contrast = population.contrast(1, 1, 2)
    assert contrast is not None
    assert contrast.weights @ values[:, 0] == pytest.approx(0.4 - 0.25 / 3)


def test_an_axis_that_others_determine_is_not_free() -> None:
    codes = full(3, 4)
    population = Population(np.c_[codes, codes[:, 0]])
    assert population.freedom(2) == 0
    assert population.freedom(0) == 0
    assert population.freedom(1) == 1
    assert population.contrast(2, 2, 1) is None
    half = Population(np.array([[1, 1], [1, 2], [2, 1]]))
    assert half.freedom(0) == pytest.approx(2 / 3)


def test_effects_do_not_depend_on_the_order_of_configurations() -> None:
    codes = conditional()
    values = of_conditional(codes)[:, None] * (1 + codes[:, [4]])
    shuffled = np.random.default_rng(0).permutation(len(codes))
    one, other = Population(codes), Population(codes[shuffled])
    for axis in one.axes:
        assert one.total(axis, values)[0] == pytest.approx(other.total(axis, values[shuffled])[0])
        for second in range(axis):
            assert one.interaction(axis, second, values)[0] == pytest.approx(
                other.interaction(axis, second, values[shuffled])[0], abs=1e-12
            )
