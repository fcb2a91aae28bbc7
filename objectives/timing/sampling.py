"""Repeats a measurement until its median is known well enough, without disturbed samples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeVar

from objectives.schema.evaluation import Samples

PRECISE = 0.01  # half-width of the median's 95 % interval, relative to the median
MIN_COUNT = 16
MAX_COUNT = 400
BURST_S = 0.05  # or `MIN_COUNT` samples, between two looks at the device

Stopped = Literal["precise", "time", "count", "throttled"]
Sample = TypeVar("Sample")


class Throttled(RuntimeError):
    """Every sample was discarded; the message says why."""


class SampleMonitor(Protocol):
    """Tells whether the samples just taken count, or something disturbed them."""

    reason: str  # why the last ones did not

    @property
    def gives_up(self) -> bool:
        """Whether no more samples are worth taking."""

    def clean(self) -> bool:
        """Tell whether what was sampled since the last call counts."""


class NoMonitor:
    """Lets every sample count: for devices whose clocks cannot be read."""

    reason = ""
    gives_up = False

    def clean(self) -> bool:
        """Return True."""
        return True


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


def median_known(values: Sequence[float], least: int = MIN_COUNT) -> bool:
    """Tell whether the median is known to within 1 %, of so many values at least."""
    if len(values) < least:
        return False
    low, high = quantile_interval(values, 0.5)
    return high - low <= 2 * PRECISE * quantile_of(values, 0.5)


def sample_until(
    one_pass: Callable[[], Sequence[Sample]],
    known: Callable[[Sequence[Sample]], bool],
    *,
    budget_s: float,
    monitor: SampleMonitor,
) -> tuple[list[Sample], Stopped]:
    """Call `one_pass` until what it returned is `known`, or time is up.

    A pass may return nothing (its samples did not count), but not for ever; `known` is asked of
    at least one sample. What `monitor` calls unclean is discarded, and its time does not count.

    Returns:
        The samples in the order they were taken, and why sampling ended.

    Raises:
        Throttled: All samples were discarded.
    """
    samples: list[Sample] = []
    monitor.clean()  # how the device is before anything is timed; if need be, it may cool down
    deadline = time.monotonic() + budget_s
    while True:
        begin = time.monotonic()
        burst = _burst(one_pass, until=min(begin + BURST_S, deadline))
        if monitor.clean():
            samples += burst
        elif monitor.gives_up:
            if not samples:
                raise Throttled(monitor.reason)
            return samples, "throttled"
        else:
            deadline += time.monotonic() - begin
            continue
        if not samples:
            continue
        if known(samples):
            return samples, "precise"
        if len(samples) >= MAX_COUNT:
            return samples, "count"
        if time.monotonic() >= deadline:
            return samples, "time"


def _burst(one_pass: Callable[[], Sequence[Sample]], *, until: float) -> list[Sample]:
    burst = [*one_pass()]
    while len(burst) < MIN_COUNT and time.monotonic() < until:
        burst += one_pass()
    return burst
