"""What a study holds beside its trials, read once for many questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import optuna


class StudyAttributes(Protocol):
    """Where what a study holds is read from: the study itself, or a `Snapshot`."""

    @property
    def study_name(self) -> str:
        """Its name."""

    @property
    def user_attrs(self) -> dict[str, Any]:
        """All that is stored of it beside its trials."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a study held at one moment. Of Optuna's, each reading reads and copies all of it."""

    study_name: str
    user_attrs: dict[str, Any]

    @classmethod
    def of(cls, study: optuna.Study) -> Snapshot:
        """Read it."""
        return cls(study.study_name, study.user_attrs)
