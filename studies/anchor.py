"""The anchor: one fixed configuration, measured every so often, whose time should not change.

Where it does, the device or the machine did, and the trials around are marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import optuna
from pydantic import BaseModel, ConfigDict

from objectives.evaluation import Evaluation, Outcome
from variants.configuration import Configuration
from variants.device import Device, DeviceKind
from variants.support import unsupported_reasons
from variants.workload import Workload

EVERY = 25  # trials
ANCHORS = "goldilocks:anchors"
# What is beyond noise. GPU time repeated within 3 % in any order and process on an H100; a CPU
# shares its caches and cores with everything else that runs.
DRIFT: dict[DeviceKind, float] = {"cuda": 0.05, "cpu": 0.25}
_WORKLOADS: dict[DeviceKind, Workload] = {
    "cuda": Workload(batch=4, seq_len=2048, q_heads=16, head_dim=64),
    "cpu": Workload(batch=1, seq_len=256, new_tokens=4, q_heads=4, head_dim=64),
}
_VARIANTS = (("flash", "bf16"), ("efficient", "fp16"), ("math", "fp32"))


class AnchorPoint(BaseModel):
    """The anchor, measured once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    before_trial: int  # the number that the next trial had
    value_ms: float | None  # GPU time, or a CPU's latency; None where it failed
    low_ms: float | None = None  # 95 % interval
    high_ms: float | None = None
    reason: str = ""  # why it failed


class Drift(BaseModel):
    """How far an anchor was from the others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    before_trial: int
    ratio: float  # to the median of all anchors; above 1 the device was slower


def anchor_configuration(device: Device) -> Configuration:
    """Return the anchor of a device: the same in every study on it."""
    candidates = [
        Configuration.of(
            _WORKLOADS[device.kind],
            {"backend": backend, "precision": precision, "cache": "static"},
        )
        for backend, precision in _VARIANTS
    ]
    supported = [c for c in candidates if not unsupported_reasons(c, device)]
    return (supported or candidates)[0]


def anchors_of(study: optuna.Study) -> tuple[AnchorPoint, ...]:
    """Return the anchors of a study, in order."""
    stored = study.user_attrs.get(ANCHORS, [])
    return tuple(AnchorPoint.model_validate(point) for point in stored)


def add_anchor(study: optuna.Study, evaluation: Evaluation, before_trial: int) -> AnchorPoint:
    """Store the anchor as it was measured before a trial."""
    point = AnchorPoint(before_trial=before_trial, value_ms=None, reason=evaluation.reason)
    measured = evaluation.measurements
    if evaluation.outcome is Outcome.MEASURED and measured is not None:
        samples = measured.latency.gpu or measured.latency.host
        point = AnchorPoint(
            before_trial=before_trial,
            value_ms=samples.value,
            low_ms=samples.low,
            high_ms=samples.high,
        )
    points = [each.model_dump(mode="json") for each in (*anchors_of(study), point)]
    study.set_user_attr(ANCHORS, points)
    return point


def drifts(points: Sequence[AnchorPoint], kind: DeviceKind) -> list[Drift]:
    """Return the anchors that are away from the median of all, beyond noise and their interval."""
    values = [point.value_ms for point in points if point.value_ms is not None]
    if len(values) < 2:
        return []
    usual = median(values)
    found = []
    for point in points:
        if point.value_ms is None or point.low_ms is None or point.high_ms is None:
            continue
        ratio = point.value_ms / usual
        apart = point.low_ms > usual or point.high_ms < usual
        if apart and abs(ratio - 1) > DRIFT[kind]:
            found.append(Drift(before_trial=point.before_trial, ratio=ratio))
    return found


def drift_at(trial: int, points: Sequence[AnchorPoint], found: Sequence[Drift]) -> Drift | None:
    """Return the drift that a trial may have met: that of the anchor before or after it."""
    if not found:
        return None
    places = sorted({point.before_trial for point in points if point.value_ms is not None})
    before = max((place for place in places if place <= trial), default=None)
    after = min((place for place in places if place > trial), default=None)
    beside = [drift for drift in found if drift.before_trial in (before, after)]
    return max(beside, key=lambda drift: abs(drift.ratio - 1), default=None)
