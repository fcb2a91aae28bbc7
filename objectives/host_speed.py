"""Puts the host times of a study's trials on one footing: the host at its usual speed."""

from __future__ import annotations

from objectives.evaluation import Evaluation
from objectives.roofline import Peaks


def at_usual_speed(evaluation: Evaluation, peaks: Peaks | None) -> Evaluation:
    """Return the evaluation with host time as of the host at its usual speed, that of `peaks`.

    Where no yardstick was taken beside it, it stays as it is.
    """
    measured = evaluation.measurements
    usual_ms = None if peaks is None else peaks.yardstick_ms
    if measured is None or usual_ms is None or measured.latency.yardstick_ms is None:
        return evaluation
    latency = measured.latency.at_host_speed(usual_ms / measured.latency.yardstick_ms)
    placed = measured.model_copy(update={"latency": latency})
    return evaluation.model_copy(update={"measurements": placed})
