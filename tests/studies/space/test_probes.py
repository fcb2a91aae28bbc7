"""Probe trials are an honest sample of the space, whoever tried them."""

import numpy as np
import pytest

from studies.space.probes import probe_order, probed

SIZES = np.array([30, 12, 1, 57])


def test_the_order_holds_every_configuration_once_and_depends_on_the_seed() -> None:
    order = probe_order(SIZES, 0)
    assert sorted(order) == list(range(100))
    assert list(order) == list(probe_order(SIZES, 0))
    assert list(order) != list(probe_order(SIZES, 1))


@pytest.mark.parametrize("count", [8, 20, 50])
def test_any_beginning_has_of_each_workload_its_share(count: int) -> None:
    ends = np.cumsum(SIZES)
    got = np.bincount(np.searchsorted(ends, probe_order(SIZES, 3)[:count], side="right"))
    for of_workload, size in zip(np.r_[got, np.zeros(4 - len(got))], SIZES, strict=True):
        assert abs(of_workload - count * size / 100) < 1 + 1e-9


def test_tried_ones_count_whoever_chose_them() -> None:
    order = probe_order(SIZES, 0)
    assert list(probed(SIZES, 0, set(order[[0, 1, 2, 5, 9]].tolist()))) == list(order[:3])
    assert len(probed(SIZES, 0, set())) == 0
    assert len(probed(SIZES, 0, range(100))) == 100
