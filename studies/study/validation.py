"""Checks what a study holds for all of its trials: anybody may write into a database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import optuna
from optuna.trial import FrozenTrial
from pydantic import Field, TypeAdapter

from objectives.schema.errors import one_line
from studies.dashboard.serving import check_note
from studies.samplers.base import PROBES
from studies.space.space import SearchSpace
from studies.storage.artifacts import artifacts_of
from studies.storage.database import GarbledError
from studies.study.anchor import ANCHORS, anchors_of
from studies.study.attributes import FINALS, PEAKS, peaks_of_study
from studies.study.finalists import Finals

_PROBES = TypeAdapter(Annotated[int, Field(strict=True, ge=0)])


def check_study(study: optuna.Study, space: SearchSpace, trials: Sequence[FrozenTrial]) -> None:
    """Check attributes of a study, and the parameters of its trials by its space.

    Raises:
        GarbledError: Something is not as this program, Optuna or the dashboard writes it.
    """
    _check_attributes(study)
    _check_system_attributes(study)
    _check_parameters(space, trials)


def _check_attributes(study: optuna.Study) -> None:
    for key, stored in study.user_attrs.items():
        try:
            if key.startswith(FINALS):
                Finals.model_validate(stored)
            elif key == ANCHORS:
                anchors_of(study)
            elif key == PEAKS:
                peaks_of_study(study)
            elif key == PROBES:
                _PROBES.validate_python(stored)
        except (TypeError, ValueError, RecursionError) as error:
            raise GarbledError(f"{key}: {one_line(error)}") from None


def _check_system_attributes(study: optuna.Study) -> None:
    attributes = study._storage.get_study_system_attrs(study._study_id)
    try:
        check_note(attributes)
        artifacts_of(attributes)
    except ValueError as error:
        raise GarbledError(str(error)) from None


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
            raise GarbledError(
                f"trial {trial.number}: {name} must be one of {', '.join(map(str, choices))}; "
                f"got one of {distribution}"
            )
