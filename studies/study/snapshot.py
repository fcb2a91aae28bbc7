"""The attributes of a study, read once for many questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import optuna


class StudyAttributes(Protocol):
    """What has the attributes of a study: the study itself, or a `Snapshot` of it."""

    @property
    def study_name(self) -> str:
        """The name of the study."""

    @property
    def user_attrs(self) -> dict[str, Any]:
        """All user attributes of the study."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The attributes of a study at one moment.

    `Study.user_attrs` reads and copies all of them each time that it is asked.
    """

    study_name: str
    user_attrs: dict[str, Any]

    @classmethod
    def of(cls, study: optuna.Study) -> Snapshot:
        """Read the attributes of a study."""
        return cls(study.study_name, study.user_attrs)
