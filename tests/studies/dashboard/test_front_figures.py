from __future__ import annotations

import json
import math

import pytest
from optuna.storages import BaseStorage

from studies.dashboard.front_figures import (
    FRONT_PLOT_ID,
    _reach,
    front_figure,
    front_points,
    save_plots,
)
from studies.results.results import read_results
from studies.storage.optuna_internals import stored_system_attributes
from tests.studies.session.test_session import run, session


def test_everything_measured_is_drawn_once_and_fronts_again(storage: BaseStorage) -> None:
    of = session(storage)
    run(of, 40)
    results = read_results(of.study)
    drawn = front_points(results)
    all_points = sum(len(points.memory) for points in drawn if not points.front)
    assert all_points == 40 + len(results.workloads)  # the defaults too
    fronts = [points for points in drawn if points.front]
    assert len(fronts) == len(results.workloads)
    for points, result in zip(fronts, results.workloads, strict=True):
        assert list(points.memory) == sorted(points.memory)
        assert list(points.latency) == sorted(points.latency, reverse=True)
        assert len(points.names) == len(result.front)


def test_default_lies_at_one_and_one(storage: BaseStorage) -> None:
    axes = {"batch": (1,), "seq_len": (512,), "score_mod": ("none",)}
    of = session(storage, axes=axes)
    run(of, 5)
    auto = next(p for p in front_points(read_results(of.study)) if p.label == "auto")
    assert (auto.memory, auto.latency) == ((pytest.approx(1.0),), (pytest.approx(1.0),))


def test_figure_is_saved_where_the_dashboard_looks(storage: BaseStorage) -> None:
    of = session(storage)
    run(of, 12)
    results = read_results(of.study)
    save_plots(of.study, results)
    stored = json.dumps(stored_system_attributes(of.study))
    assert FRONT_PLOT_ID in stored
    figure = front_figure(results).to_plotly_json()
    assert figure["layout"]["xaxis"]["type"] == "log"


def test_axes_hold_every_front_and_are_not_stretched_by_an_outlier() -> None:
    usual = [10 ** (place / 100) for place in range(100)]
    low, high = _reach([*usual, 1e6], [0.5, 1.0])
    assert low < math.log10(0.5)
    assert 1.0 <= high < 3.0
    assert _reach([*usual, 1e6], [0.5, 1e6])[1] > 6.0
    low, high = _reach([], [1.0])
    assert low < 0 < high
