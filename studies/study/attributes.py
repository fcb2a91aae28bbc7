"""What a study keeps beside its trials: the rates of its roofline, and verdicts on finalists."""

from __future__ import annotations

import dataclasses

import optuna
from pydantic import TypeAdapter

from objectives.roofline.bound import Peaks
from studies.study.finalists import Finals
from studies.study.snapshot import Held
from variants.workload import Workload

FINALS, PEAKS = "goldilocks:finals:", "goldilocks:peaks"  # the first: of each workload
_PEAKS = TypeAdapter(Peaks)


def set_finals(study: optuna.Study, workload: Workload, finals: Finals) -> None:
    """Store the verdicts on a workload's finalists, in place of earlier ones."""
    study.set_user_attr(FINALS + workload.key, finals.model_dump(mode="json"))


def finals_of(study: Held, workload: Workload) -> Finals | None:
    """Return the verdicts on a workload's finalists, if they were timed again."""
    stored = study.user_attrs.get(FINALS + workload.key)
    return None if stored is None else Finals.model_validate(stored)


def set_first_peaks(study: optuna.Study, peaks: Peaks | None) -> None:
    """Store the rates of the study's roofline: every trial is placed under the first ones."""
    if not has_peaks(study):
        study.set_user_attr(PEAKS, None if peaks is None else dataclasses.asdict(peaks))


def has_peaks(study: Held) -> bool:
    """Tell whether measuring the rates of the study's roofline was tried."""
    return PEAKS in study.user_attrs


def peaks_of_study(study: Held) -> Peaks | None:
    """Return the rates that were measured for the study, if they were.

    Raises:
        ValueError: They are not as they were written.
    """
    stored = study.user_attrs.get(PEAKS)
    return None if stored is None else _PEAKS.validate_python(stored)
