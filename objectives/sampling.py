"""Repeats a measurement until its median is known."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Literal

from objectives.evaluation import Samples

PRECISE = 0.01  # half-width of the median's 95 % interval, relative to the median
MIN_COUNT = 16
MAX_COUNT = 400

Stopped = Literal["precise", "time", "count"]


def quantile_interval(values: Sequence[float], quantile: float) -> tuple[float, float]:
    """Return the distribution-free 95 % interval of a quantile, by order statistics.

    Source: Conover, Practical Nonparametric Statistics, 3rd ed., section 3.2 (normal
    approximation of the binomial). With few values it is their whole range.
    """
    ordered = sorted(values)
    count = len(ordered)
    half = 1.96 * math.sqrt(count * quantile * (1 - quantile))
    low = max(0, math.floor(count * quantile - half))
    high = min(count - 1, math.ceil(count * quantile + half))
    return ordered[low], ordered[high]


def quantile_of(values: Sequence[float], quantile: float) -> float:
    """Return the quantile, interpolated between the two nearest values."""
    ordered = sorted(values)
    place = quantile * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def summarise(
    values: Sequence[float], stopped: Stopped, *, quantile: float = 0.5, layers: int = 1
) -> Samples:
    """Return the statistics of one layer's times, multiplied by the number of layers."""
    low, high = quantile_interval(values, quantile)
    return Samples(
        quantile=quantile,
        value=quantile_of(values, quantile) * layers,
        low=low * layers,
        high=high * layers,
        iqr=(quantile_of(values, 0.75) - quantile_of(values, 0.25)) * layers,
        count=len(values),
        stopped=stopped,
    )


def sample_until_known(
    one_pass: Callable[[], Sequence[float]], *, budget_s: float
) -> tuple[list[float], Stopped]:
    """Call `one_pass` until the median of all it returned is known to 1 %, or time is up.

    A pass may return nothing (its samples did not count), but not for ever.

    Returns:
        The values in the order they were taken, and why sampling ended.
    """
    values: list[float] = []
    deadline = time.monotonic() + budget_s
    while True:
        values += one_pass()
        if len(values) >= MIN_COUNT:
            low, high = quantile_interval(values, 0.5)
            if high - low <= 2 * PRECISE * quantile_of(values, 0.5):
                return values, "precise"
        if len(values) >= MAX_COUNT:
            return values, "count"
        if values and time.monotonic() >= deadline:
            return values, "time"
