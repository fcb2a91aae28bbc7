"""A recorded table as a bench: searches are replayed on it, without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from objectives.evaluation import Evaluation, Latency, Measurements, Memory, Outcome, Samples
from studies.space import SearchSpace, Survey
from variants.axes import AXES
from variants.configuration import Configuration
from variants.workload import Workload

MEASURED_COLUMNS = ("status", "peak_bytes", "latency_ms")
STATUSES = {"ok": Outcome.MEASURED, "oom": Outcome.OUT_OF_MEMORY}
# What else a table may hold about a row, and a replay does not need.
OTHER_COLUMNS = ("reserved_bytes", "latency_iqr_ms", "rel_error", "compile_s", "note")


class TableError(ValueError):
    """A table that cannot be replayed; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class RecordedTable:
    """Every row of a table, by the key of its configuration."""

    survey: Survey
    evaluations: Mapping[str, Evaluation]


def read_table(path: Path) -> RecordedTable:
    """Read a CSV with a column for each axis, `status`, `peak_bytes` and `latency_ms`.

    Its rows are the space: declared support is not applied.

    Raises:
        TableError: It cannot be read, lacks a column, or holds what is no configuration.
    """
    try:
        frame = pd.read_csv(path, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise TableError(
            f"table must be a CSV file that can be read, got {path}: {error}"
        ) from None
    missing = [name for name in MEASURED_COLUMNS if name not in frame.columns]
    if missing:
        raise TableError(f"table {path}: columns must include {', '.join(missing)}")
    known = (*AXES, *MEASURED_COLUMNS, *OTHER_COLUMNS)
    unknown = [name for name in frame.columns if name not in known and frame[name].nunique() > 1]
    if unknown:
        raise TableError(f"table {path}: columns that vary must be axes, got {', '.join(unknown)}")
    axes = [name for name in AXES if name in frame.columns]
    evaluations: dict[str, Evaluation] = {}
    for number, row in enumerate(frame.to_dict("records"), 2):
        try:
            evaluation = _evaluation({str(name): value for name, value in row.items()}, axes)
        except (ValueError, KeyError) as error:
            raise TableError(f"table {path}, line {number}: {_one_line(error)}") from None
        evaluations[evaluation.configuration.key] = evaluation
    return RecordedTable(_survey([e.configuration for e in evaluations.values()]), evaluations)


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return str(error.errors()[0]["msg"])
    return str(error).splitlines()[0]


def _evaluation(row: Mapping[str, object], axes: list[str]) -> Evaluation:
    given = {name: row[name] for name in axes if row[name] != ""}
    # One step of a fixed length was recorded, unless the table says otherwise.
    of = {"new_tokens": 1} | {n: v for n, v in given.items() if not AXES[n].of_variant}
    workload = Workload.model_validate(of)
    choices = {name: value for name, value in given.items() if AXES[name].of_variant}
    configuration = Configuration.of(workload, choices)
    status = str(row["status"])
    if status not in STATUSES:
        raise ValueError(f"status must be one of {', '.join(STATUSES)}, got {status}")
    outcome = STATUSES[status]
    if outcome is not Outcome.MEASURED:
        return Evaluation(configuration=configuration, outcome=outcome, reason="as recorded")
    numbers = _measurements(float(str(row["latency_ms"])), float(str(row["peak_bytes"])) / 2**20)
    return Evaluation(configuration=configuration, outcome=outcome, measurements=numbers)


def _measurements(latency_ms: float, memory_mib: float) -> Measurements:
    if not (latency_ms > 0 and memory_mib > 0):
        raise ValueError(f"measured numbers must be positive, got {latency_ms} ms")
    samples = Samples(
        quantile=0.5,
        value=latency_ms,
        low=latency_ms,
        high=latency_ms,
        iqr=0.0,
        count=1,
        stopped="count",
    )
    return Measurements(
        latency=Latency(
            latency_ms=latency_ms,
            low_ms=latency_ms,
            high_ms=latency_ms,
            bound="gpu",
            gpu=samples,
            held=True,
            host=samples,
            first_step_ms=latency_ms,
            new_length_ms=None,
        ),
        memory=Memory(
            peak_mib=memory_mib,
            weights_mib=0.0,
            cache_mib=0.0,
            transient_mib=memory_mib,
            reserved_mib=None,
            workspace_mib=None,
        ),
        relative_error=0.0,
        backend_ran=None,
        kernels=(),
    )


def _survey(configurations: list[Configuration]) -> Survey:
    choices: dict[str, dict[int | str, None]] = {name: {} for name in AXES}
    workloads: dict[str, Workload] = {}
    possible: dict[str, list[Configuration]] = {}
    for configuration in configurations:
        workload, variant = configuration.workload, configuration.variant
        workloads.setdefault(workload.key, workload)
        possible.setdefault(workload.key, []).append(configuration)
        fields = workload.model_dump(mode="json") | variant.model_dump(exclude_none=True)
        for name, value in fields.items():
            choices[name].setdefault(value)
    axes = {name: tuple(values) for name, values in choices.items() if values}
    return Survey(
        SearchSpace(axes=axes),
        tuple(workloads.values()),
        {key: tuple(c.variant for c in found) for key, found in possible.items()},
    )
