"""The exported JSON: one versioned document, from which the winners load back as attention."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from objectives.environment import Environment
from objectives.evaluation import Evaluation, Measurements, Outcome
from objectives.limits import Limits
from studies.front import Candidate, WorkloadResult
from studies.results import Results
from studies.study import Unit
from variants.loading_schema import SCHEMA_VERSION, LoadableChoice, LoadableWorkload

SCHEMA_FILE = Path(__file__).with_name("best.schema.json")


class ExportedChoice(LoadableChoice):
    """A configuration worth choosing, with every number that speaks for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    trial: int | None  # None: the default itself
    measurements: Measurements
    memory_vs_default: float  # below 1 is less
    latency_vs_default: float  # below 1 is faster
    ties: tuple[str, ...] = ()  # keys of variants that cannot be told from it


class ExportedWorkload(LoadableWorkload):
    """A workload, its default and what was chosen for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    choices: Mapping[str, ExportedChoice]
    default: Evaluation
    default_is_roofline: bool  # the default failed, and ratios are to its roofline
    front: tuple[ExportedChoice, ...]  # by rising memory


class ExportedStudy(BaseModel):
    """Where the choices come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sampler: str
    seed: int
    limits: Limits
    trials: int
    outcomes: dict[Outcome, int]


class Export(BaseModel):
    """The whole document."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    schema_version: Literal[1] = SCHEMA_VERSION
    created: datetime
    environment: Environment
    study: ExportedStudy
    workloads: tuple[ExportedWorkload, ...]


def build_export(results: Results) -> Export:
    """Return the document of a study's results."""
    plan = results.plan
    return Export(
        created=datetime.now(UTC),
        environment=results.environment,
        study=ExportedStudy(
            name=results.study_name,
            sampler=plan.sampler,
            seed=plan.seed,
            limits=plan.limits,
            trials=len(results.told),
            outcomes=dict(results.outcomes),
        ),
        workloads=tuple(_workload(result) for result in results.workloads),
    )


def _workload(result: WorkloadResult) -> ExportedWorkload:
    return ExportedWorkload(
        workload=result.workload,
        default=result.default,
        default_is_roofline=not result.unit.measured,
        choices={
            name: _choice(winner.candidate, result.unit, winner.ties)
            for name, winner in (
                *result.winners.items(),
                *((f"strict_{name}", winner) for name, winner in result.strict_winners.items()),
            )
        },
        front=tuple(_choice(candidate, result.unit) for candidate in result.front),
    )


def _choice(candidate: Candidate, unit: Unit, ties: tuple[Candidate, ...] = ()) -> ExportedChoice:
    return ExportedChoice(
        configuration=candidate.evaluation.configuration,
        resolved_backend=candidate.measurements.backend_ran,
        trial=candidate.number,
        measurements=candidate.measurements,
        memory_vs_default=candidate.memory / unit.peak_memory_mib,
        latency_vs_default=candidate.latency / unit.latency_ms,
        ties=tuple(tie.evaluation.configuration.variant.key for tie in ties),
    )


def export_schema() -> str:
    """Return the JSON Schema of the document, as it is published in `SCHEMA_FILE`."""
    schema = Export.model_json_schema(mode="serialization")
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that it is either the old one or the whole new one.

    Raises:
        OSError: It cannot be written.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
