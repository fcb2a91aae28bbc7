"""What a number of workers finds by when, over several searches."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import plotly.graph_objects

from studies.numerics.arrays import Matrix
from studies.replay.replay import Scorer, add_band
from studies.replay.simulation import SimulatedTrial

TARGETS = (0.9, 0.95, 0.98, 0.99)  # dispatch scores
TICKS = {"type": "log", "tickformat": "~r", "dtick": "D2"}  # at 1, 2 and 5
_POINTS = 200  # of a curve


@dataclass(frozen=True, slots=True)
class Course:
    """One search: the dispatch score after each trial, and when that was."""

    seconds: tuple[float, ...]
    scores: tuple[float, ...]
    busy_workers: float  # that were measuring, on average
    seconds_per_ask: float

    def reached(self, score: float) -> float | None:
        """Return when the score was reached, if it was."""
        place = bisect_left(self.scores, score)
        return self.seconds[place] if place < len(self.scores) else None


@dataclass(frozen=True, slots=True)
class Scaling:
    """Means over the searches of one number of workers."""

    trials: int
    wall_seconds: float
    dispatch_score: float  # at the end
    busy_workers: float
    seconds_per_ask: float
    # To each of `TARGETS`; None where a search did not reach it.
    seconds_to: tuple[float | None, ...]


def course_of(scorer: Scorer, finished: Sequence[SimulatedTrial]) -> Course:
    """Return score and time after each trial of one simulated search."""
    seconds = tuple(one.ended for one in finished)
    measuring = sum(one.ended - one.begun for one in finished)
    scores = scorer.history(one.evaluation for one in finished)
    asking = fmean(one.freed - one.asked for one in finished)
    return Course(seconds, tuple(scores), measuring / seconds[-1], asking)


def scaling_of(courses: Sequence[Course]) -> Scaling:
    """Summarise the searches of one number of workers."""
    return Scaling(
        trials=len(courses[0].scores),
        wall_seconds=fmean(course.seconds[-1] for course in courses),
        dispatch_score=fmean(course.scores[-1] for course in courses),
        busy_workers=fmean(course.busy_workers for course in courses),
        seconds_per_ask=fmean(course.seconds_per_ask for course in courses),
        seconds_to=tuple(
            _mean([course.reached(target) for course in courses]) for target in TARGETS
        ),
    )


def speed_ups(one: Scaling, many: Scaling) -> tuple[float | None, ...]:
    """Return how many times sooner `many` workers reach each target than `one` does."""
    pairs = zip(one.seconds_to, many.seconds_to, strict=True)
    return tuple(None if a is None or b is None else a / b for a, b in pairs)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def _at(course: Course, seconds: Matrix) -> Matrix:
    """Return the dispatch score at each of the moments `seconds`."""
    told = np.searchsorted(course.seconds, seconds, side="right")
    scores: Matrix = np.r_[0.0, course.scores][told]
    return scores


def wall_time_figure(
    curves: Mapping[str, Sequence[Course]], title: str
) -> plotly.graph_objects.Figure:
    """Plot scores against wall time, by name: the mean, in a band over all searches."""
    figure = plotly.graph_objects.Figure()
    for name, courses in curves.items():
        first = min(course.seconds[0] for course in courses)
        last = max(course.seconds[-1] for course in courses)
        x = np.geomspace(first, last, _POINTS)
        scores = np.array([_at(course, x) for course in courses])
        add_band(figure, x.tolist(), scores, name, mode="lines")
    figure.update_xaxes(title="virtual wall time (s)", **TICKS)
    figure.update_yaxes(title="share of the exhaustive hypervolume", range=[0, 1.02])
    figure.update_layout(title=title, template="plotly_white", legend={"y": 0.05, "x": 0.8})
    return figure
