"""The rates of the device as they were measured for a study: the roofline of all its trials."""

from __future__ import annotations

import dataclasses

import optuna
from pydantic import TypeAdapter

from objectives.roofline.bound import Peaks
from studies.study.attributes import PEAKS
from studies.study.snapshot import StudyAttributes

_PEAKS = TypeAdapter(Peaks)


def set_first_peaks(study: optuna.Study, peaks: Peaks | None) -> None:
    """Store the rates of the study's roofline: every trial is placed under the first ones."""
    if not has_peaks(study):
        study.set_user_attr(PEAKS, None if peaks is None else dataclasses.asdict(peaks))


def has_peaks(study: StudyAttributes) -> bool:
    """Tell whether measuring the rates of the study's roofline was tried."""
    return PEAKS in study.user_attrs


def peaks_of_study(study: StudyAttributes) -> Peaks | None:
    """Return the rates that were measured for the study, if they were.

    Raises:
        ValueError: They are not as they were written.
    """
    stored = study.user_attrs.get(PEAKS)
    return None if stored is None else _PEAKS.validate_python(stored)
