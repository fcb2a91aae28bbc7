"""Scales the host times of a study to its host at full speed, so that trials can be compared.

Figures: docs/measuring.md, "the host reference".
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from objectives.schema.comparison import Comparison, Retimed
from objectives.schema.evaluation import Evaluation, Latency
from variants.configuration import Configuration

# Steps slow down by more than the host reference does, by about this power of it;
# `python -m benchmarks.repeats` takes what it is fitted to.
STEEPNESS = 1.2


def host_scale(taken_ms: float, full_ms: float) -> float:
    """Return the factor that scales a host time to the host's full speed.

    Args:
        taken_ms: What the host reference took beside it.
        full_ms: What the host reference takes at full speed.
    """
    return float((full_ms / taken_ms) ** STEEPNESS)


def at_full_speed(evaluation: Evaluation, reference_ms: float | None) -> Evaluation:
    """Return the evaluation with host time as on a host whose reference takes `reference_ms`.

    Where no host reference was taken beside it, or none is known, it stays as it is.
    """
    measured = evaluation.measurements
    if measured is None or reference_ms is None or measured.latency.yardstick_ms is None:
        return evaluation
    speed = host_scale(measured.latency.yardstick_ms, reference_ms)
    latency = measured.latency.at_host_speed(speed)
    placed = measured.model_copy(update={"latency": latency})
    return evaluation.model_copy(update={"measurements": placed})


def full_speed_of(latencies: Iterable[Latency]) -> float | None:
    """Return the time of the host reference that latencies were scaled to, in ms, if any was."""
    for latency in latencies:
        if latency.host_speed is not None and latency.yardstick_ms is not None:
            speed: float = latency.host_speed ** (1 / STEEPNESS)
            return speed * latency.yardstick_ms
    return None


def turns_at_full_speed(comparison: Comparison, trials: Iterable[Evaluation]) -> Comparison:
    """Return a comparison with its host times at full speed, by those of its `trials`.

    No host reference is taken in turns. By how much the host was slower, the host times of all of
    a group tell together, beside those of their trials.
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
