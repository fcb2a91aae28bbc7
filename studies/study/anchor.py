"""The anchor: one fixed configuration, measured every so often, whose time should not change.

Where it does, the device or the machine did, and the trials around are marked.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from statistics import median, median_low

import optuna
from pydantic import BaseModel, ConfigDict

from objectives.schema.evaluation import Evaluation, Outcome
from studies.study.attributes import ANCHORS
from studies.study.snapshot import StudyAttributes
from variants.configuration import Configuration
from variants.device import Device, DeviceKind
from variants.support import unsupported_reasons
from variants.workload import Workload

EVERY = 25  # trials
# What is beyond noise: more than GPU time differs between orders and processes, as
# `python -m benchmarks.repeats` measures it. A CPU shares its caches and cores with all that runs.
DRIFT: dict[DeviceKind, float] = {"cuda": 0.05, "cpu": 0.25}
# By how much the devices of one study may differ: what is measured on any stands for all.
AGREE: dict[DeviceKind, float] = {"cuda": 0.02, "cpu": 0.25}
NEWEST = 3  # anchors of a device, whose median is compared with others'
_WORKLOADS: dict[DeviceKind, Workload] = {
    # Large enough that where its buffers lie does not show (`python -m benchmarks.places`).
    "cuda": Workload(batch=16, seq_len=4096, q_heads=16, head_dim=64),
    "cpu": Workload(batch=1, seq_len=256, new_tokens=4, q_heads=4, head_dim=64),
}
_VARIANTS = (("flash", "bf16"), ("efficient", "fp16"), ("math", "fp32"))


class AnchorPoint(BaseModel):
    """One measurement of the anchor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    before_trial: int  # the number that the next trial had
    value_ms: float | None  # GPU time, or a CPU's latency; None where it failed
    low_ms: float | None = None  # 95 % interval
    high_ms: float | None = None
    reason: str = ""  # why it failed
    measured_on: str = ""  # host and device


class Drift(BaseModel):
    """An anchor that was further from the others of its device than noise explains."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    before_trial: int
    ratio: float  # to the median of all anchors there; above 1 the device was slower
    measured_on: str = ""


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


def anchors_of(study: StudyAttributes) -> tuple[AnchorPoint, ...]:
    """Return the anchors of a study, in order."""
    stored = study.user_attrs.get(ANCHORS, [])
    return tuple(AnchorPoint.model_validate(point) for point in stored)


def add_anchor(
    study: optuna.Study, evaluation: Evaluation, before_trial: int, measured_on: str = ""
) -> AnchorPoint:
    """Store the anchor as it was measured before a trial."""
    point = AnchorPoint(
        before_trial=before_trial,
        value_ms=None,
        reason=evaluation.reason,
        measured_on=measured_on,
    )
    measured = evaluation.measurements
    if evaluation.outcome is Outcome.MEASURED and measured is not None:
        samples = measured.latency.gpu or measured.latency.host
        point = AnchorPoint(
            before_trial=before_trial,
            value_ms=samples.value,
            low_ms=samples.low,
            high_ms=samples.high,
            measured_on=measured_on,
        )
    points = [each.model_dump(mode="json") for each in (*anchors_of(study), point)]
    study.set_user_attr(ANCHORS, points)
    return point


def drifts(points: Sequence[AnchorPoint], kind: DeviceKind) -> list[Drift]:
    """Return the anchors that are away from the median of all of their device.

    Away is beyond noise and beyond their interval.
    """
    found = []
    for device, its in _by_device(points).items():
        usual = median(point.value_ms for point in its if point.value_ms is not None)
        for point in its:
            if point.value_ms is None or point.low_ms is None or point.high_ms is None:
                continue
            ratio = point.value_ms / usual
            apart = point.low_ms > usual or point.high_ms < usual
            if len(its) > 1 and apart and abs(ratio - 1) > DRIFT[kind]:
                found.append(
                    Drift(before_trial=point.before_trial, ratio=ratio, measured_on=device)
                )
    return found


class DriftMarks:
    """Which trials a drift may have touched: those on both sides of an anchor that drifted."""

    def __init__(self, points: Sequence[AnchorPoint], found: Sequence[Drift]) -> None:
        self._places = {
            device: sorted({point.before_trial for point in its})
            for device, its in _by_device(points).items()
        }
        self._drifts: dict[tuple[str, int], list[Drift]] = {}
        for drift in found:
            self._drifts.setdefault((drift.measured_on, drift.before_trial), []).append(drift)

    def at(self, trial: int, measured_on: str) -> Drift | None:
        """Return the drift that a trial may have met: that of the anchor before or after it."""
        places = self._places.get(measured_on, [])
        after = bisect_right(places, trial)
        beside = [
            drift
            for place in places[max(0, after - 1) : after + 1]
            for drift in self._drifts.get((measured_on, place), [])
        ]
        return max(beside, key=lambda drift: abs(drift.ratio - 1), default=None)


def disagreements(
    points: Sequence[AnchorPoint], here: Collection[str], kind: DeviceKind
) -> dict[str, str]:
    """Say which devices of this run disagree with the study's: a line for each.

    The medians of their newest anchors are compared with those of the devices that measured the
    study before, or, when there were none, of this run's.
    """
    values = {
        device: median(p.value_ms for p in its[-NEWEST:] if p.value_ms is not None)
        for device, its in _by_device(points).items()
    }
    elsewhere = [value for device, value in values.items() if device not in here]
    if len(values) < 2:
        return {}
    usual = median_low(elsewhere or values.values())
    return {
        device: f"{device} is left out: one and the same configuration takes {value / usual:.3f} "
        f"times as long there as on the other devices, and those of one study must agree within "
        f"{AGREE[kind]:.0%}; stop what else runs on it, or let it in with --new-environment"
        for device, value in values.items()
        if device in here and abs(value / usual - 1) > AGREE[kind]
    }


def _by_device(points: Sequence[AnchorPoint]) -> dict[str, list[AnchorPoint]]:
    """Return the anchors that could be measured, by device."""
    found: dict[str, list[AnchorPoint]] = {}
    for point in points:
        if point.value_ms is not None:
            found.setdefault(point.measured_on, []).append(point)
    return found
