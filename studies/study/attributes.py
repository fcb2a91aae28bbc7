"""The names under which a study's database holds what this product stores, and how it is read.

They are written into databases that outlive a version: a name that changes makes old studies
unreadable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from objectives.schema.errors import one_line
from variants.user_error import UserError

# Of a study. Those that end in a colon have one attribute a workload, by its key.
PLAN = "goldilocks:plan"  # written last: it makes a study one of ours
ENVIRONMENT = "goldilocks:environment"  # the first one; later ones end in `:2`, `:3`, …
DEFAULT = "goldilocks:default:"  # evaluation of a workload's default
FINALS = "goldilocks:finals:"  # the finalists of a workload, timed in turns
PEAKS = "goldilocks:peaks"  # rates of the device
ANCHORS = "goldilocks:anchors"
PROBES = "goldilocks:probes"  # how many configurations of the probe order to try

# Of a trial.
EVALUATION = "evaluation"  # alone holds everything that was measured
OWNER = "owner"  # the process that measures it
MEASURED_ON = "measured_on"  # host and device
ENVIRONMENT_NUMBER = "environment"  # in which of the study's environments; absent in the first
ABANDONED = "abandoned"  # why a trial was given up; means something in state FAIL alone
# Copies of parts of the evaluation, which the dashboard shows as columns.
OUTCOME, REASON = "outcome", "reason"
LATENCY, MEMORY, RELATIVE_ERROR = "latency_ms", "peak_memory_mib", "relative_error"

# Of a trial, among Optuna's own attributes: see `acquisition.Acquisition`.
EXPECTED_GAIN = "goldilocks:expected_gain"

Stored = TypeVar("Stored", bound=BaseModel)


class StudyError(UserError):
    """A study that cannot be used as asked."""


def read_stored(model: type[Stored], attributes: Mapping[str, Any], key: str, of: str) -> Stored:
    """Read what is stored as an attribute of a study or a trial; `of` says whose it is.

    Raises:
        StudyError: It is not there, or not as it was written.
    """
    try:
        return model.model_validate(attributes[key])
    except KeyError:
        raise StudyError(f"{of} cannot be read: it has no {key}") from None
    except (ValueError, RecursionError) as error:  # lone surrogates, too
        raise StudyError(f"{of} cannot be read: {key}: {one_line(error)}") from None
