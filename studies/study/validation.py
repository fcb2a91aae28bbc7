"""Checks what a study holds for all of its trials: anybody may write into a database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import optuna
from optuna.trial import FrozenTrial
from pydantic import Field, TypeAdapter

from objectives.schema.errors import one_line
from studies.space.space import SearchSpace
from studies.storage.artifacts import artifacts_of
from studies.storage.database import CorruptStudyError
from studies.storage.optuna_internals import stored_system_attributes
from studies.study.anchor import anchors_of
from studies.study.attributes import ANCHORS, FINALS, PEAKS, PROBES
from studies.study.device_peaks import peaks_of_study
from studies.study.finalists import FinalistTimings

_NOTE_VERSION, _NOTE_PART = "dashboard:note_ver", "dashboard:note_str:"
_PROBES = TypeAdapter(Annotated[int, Field(strict=True, ge=0)])


def check_study(study: optuna.Study, space: SearchSpace, trials: Sequence[FrozenTrial]) -> None:
    """Check attributes of a study, and the parameters of its trials by its space.

    Raises:
        CorruptStudyError: Something is not as this program, Optuna or the dashboard writes it.
    """
    _check_attributes(study)
    _check_system_attributes(study)
    _check_parameters(space, trials)


def check_note(attributes: Mapping[str, Any]) -> None:
    """Check the note among a study's system attributes: a version, and texts numbered from 0.

    Raises:
        ValueError: It is not as optuna-dashboard writes it.
    """
    version = attributes.get(_NOTE_VERSION, 0)
    if type(version) is not int:
        raise ValueError(f"{_NOTE_VERSION}: must be a whole number, got {version!r}")
    parts = {key: text for key, text in attributes.items() if key.startswith(_NOTE_PART)}
    for key in (f"{_NOTE_PART}{number}" for number in range(len(parts))):
        if not isinstance(parts.get(key), str):
            raise ValueError(f"{key}: must be a text, got {parts.get(key)!r}")


def _check_attributes(study: optuna.Study) -> None:
    for key, stored in study.user_attrs.items():
        try:
            if key.startswith(FINALS):
                FinalistTimings.model_validate(stored)
            elif key == ANCHORS:
                anchors_of(study)
            elif key == PEAKS:
                peaks_of_study(study)
            elif key == PROBES:
                _PROBES.validate_python(stored)
        except (TypeError, ValueError, RecursionError) as error:
            raise CorruptStudyError(f"{key}: {one_line(error)}") from None


def _check_system_attributes(study: optuna.Study) -> None:
    attributes = stored_system_attributes(study)
    try:
        check_note(attributes)
        artifacts_of(attributes)
    except ValueError as error:
        raise CorruptStudyError(str(error)) from None


def _check_parameters(space: SearchSpace, trials: Sequence[FrozenTrial]) -> None:
    """Check that trials chose among the choices of the space.

    Axes that are missing, and parameters that are no axes, are somebody else's trials.
    """
    searched = space.searched
    for trial in trials:
        for name, distribution in trial.distributions.items():
            choices = searched.get(name)
            if choices is None or getattr(distribution, "choices", None) == choices:
                continue
            raise CorruptStudyError(
                f"trial {trial.number}: {name} must be one of {', '.join(map(str, choices))}; "
                f"got one of {distribution}"
            )
