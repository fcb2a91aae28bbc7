"""Puts the host times of a study on one footing: as of its host at full speed."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from objectives.schema.comparison import Comparison, Retimed
from objectives.schema.evaluation import Evaluation, Latency
from variants.configuration import Configuration

# Steps slow down by more than the yardstick does, by about this power of it: 1.18, 1.25, 1.36 and
# 1.45 fitted the host times of 44 to 52 configurations, each several times in two processes, in
# four runs on H100s and H200s. In each of them host times differ less with it than with 1, on
# average over the configurations.
STEEPNESS = 1.2


def speed_beside(taken_ms: float, full_ms: float) -> float:
    """Return what a host time is multiplied by that was taken beside a yardstick of `taken_ms`.

    It is then as of a host on which the yardstick takes `full_ms`.
    """
    return float((full_ms / taken_ms) ** STEEPNESS)


def at_full_speed(evaluation: Evaluation, yardstick_ms: float | None) -> Evaluation:
    """Return the evaluation with host time as of a host on which a yardstick takes so long.

    Where no yardstick was taken beside it, or none is known, it stays as it is.
    """
    measured = evaluation.measurements
    if measured is None or yardstick_ms is None or measured.latency.yardstick_ms is None:
        return evaluation
    speed = speed_beside(measured.latency.yardstick_ms, yardstick_ms)
    latency = measured.latency.at_host_speed(speed)
    placed = measured.model_copy(update={"latency": latency})
    return evaluation.model_copy(update={"measurements": placed})


def full_speed_of(latencies: Iterable[Latency]) -> float | None:
    """Return what a yardstick took at the full speed that latencies were put at, in ms."""
    for latency in latencies:
        if latency.host_speed is not None and latency.yardstick_ms is not None:
            speed: float = latency.host_speed ** (1 / STEEPNESS)
            return speed * latency.yardstick_ms
    return None


def turns_at_full_speed(comparison: Comparison, trials: Iterable[Evaluation]) -> Comparison:
    """Return turns with host times as of the host at full speed, at which their `trials` are.

    No yardstick is taken in turns. By how much the host was slower, the host times of all of a
    group tell together, beside those of their trials.
    """
    host_ms = {
        trial.configuration: trial.measurements.latency.host.value
        for trial in trials
        if trial.measurements is not None and trial.measurements.latency.host_speed is not None
    }
    groups = tuple(_at_full_speed(group, host_ms) for group in comparison.groups)
    return comparison.model_copy(update={"groups": groups})


def _at_full_speed(
    group: tuple[Retimed, ...], host_ms: dict[Configuration, float]
) -> tuple[Retimed, ...]:
    speeds = [
        host_ms[one.configuration] / median(one.host_ms)
        for one in group
        if one.held and one.configuration in host_ms
    ]
    if not speeds:
        return group
    speed = median(speeds)
    return tuple(
        one.model_copy(update={"host_ms": tuple(speed * each for each in one.host_ms)})
        for one in group
    )
