"""A recorded table as a bench: searches are replayed on it, without a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import ValidationError

from objectives.schema.evaluation import (
    LEAST,
    MOST,
    Evaluation,
    Latency,
    Measurements,
    Memory,
    Outcome,
    Samples,
)
from studies.space.catalogue import Catalogue, encode
from variants.axes import AXES, Choice
from variants.configuration import Configuration
from variants.user_error import UserError
from variants.workload import Workload

STATUSES = {"ok": Outcome.MEASURED, "oom": Outcome.OUT_OF_MEMORY}
# What a table says of a row beside its axes. Any other column that varies is an axis.
MEASURED = {
    *("trial", "status", "outcome", "reason", "note", "compile_s", "environment"),
    *("latency_ms", "latency_iqr_ms", "latency_low_ms", "latency_high_ms", "bound", "gpu_ms"),
    *("host_ms", "held", "samples", "stopped", "host_speed", "first_step_ms"),
    *("new_length_ms", "backend_ran"),
    *("roofline_ms", "roofline_share", "roofline_mib"),
    *("sm_mhz_low", "sm_mhz_high", "temperature_c", "clock_limits", "bursts_discarded"),
    *("peak_bytes", "reserved_bytes", "rel_error", "relative_error", *Memory.model_fields),
}

STAGE = "seconds "  # begins the columns of what each stage took, as `search table` writes them
FIRST_STEP = "first step"  # the stage that compiles


class TableError(UserError):
    """A table that cannot be replayed."""


@dataclass(frozen=True, slots=True)
class RecordedTable:
    """The rows of a table of measurements, as a catalogue of configurations, by workload."""

    catalogue: Catalogue
    # Of each row of the catalogue. Its configuration lacks what the vocabulary does not know.
    evaluations: Sequence[Evaluation]
    # Of each row, as they stand in the file: what stages of the trial took, by their names.
    stages: Sequence[Mapping[str, str]]
    unknown: tuple[str, ...]  # columns that are axes, but none of ours


@dataclass(frozen=True, slots=True)
class _Row:
    choices: Mapping[str, Choice]
    evaluation: Evaluation
    stages: Mapping[str, str]

    @property
    def workload(self) -> str:
        return self.evaluation.configuration.workload.key


def read_table(path: Path) -> RecordedTable:
    """Read a CSV with a column for each axis and what was measured.

    `status` (ok, oom) and `peak_bytes`, or `outcome` and `peak_mib` as `search table` writes them,
    and `latency_ms`. Its rows are the space: declared support is not applied, an empty cell is an
    axis that means nothing there, and defaults (rows without a trial's number) are passed over.

    Raises:
        TableError: It cannot be read, lacks a column, or holds what is no configuration.
    """
    try:
        frame = pd.read_csv(path, keep_default_na=False, dtype=str)
    except (OSError, ValueError) as error:
        raise TableError(
            f"table must be a CSV file that can be read, got {path}: {_one_line(error)}"
        ) from None
    for either in (("phase",), ("status", "outcome"), ("peak_bytes", "peak_mib"), ("latency_ms",)):
        if not set(either) & set(frame.columns):
            raise TableError(f"table {path}: there must be a column {' or '.join(either)}")
    unknown = tuple(
        name
        for name in frame.columns
        if name not in AXES and not _is_measured(name) and frame[name].nunique() > 1
    )
    rows: list[_Row] = []
    for number, row in enumerate(frame.to_dict("records"), 2):
        cells = {str(name): str(value) for name, value in row.items()}
        if cells.get("trial") == "":
            continue
        try:
            rows.append(_Row(_choices(cells, unknown), _evaluation(cells), _stages(cells)))
        except (ValueError, KeyError) as error:
            raise TableError(f"table {path}, line {number}: {_one_line(error)}") from None
    if not rows:
        raise TableError(f"table {path} must have rows, got none")
    if not any(row.evaluation.outcome is Outcome.MEASURED for row in rows):
        raise TableError(
            f"table {path} must have a row that was measured, got {len(rows)} without: there is "
            "nothing to find in it"
        )
    return _recorded(path, rows, unknown)


def _recorded(path: Path, rows: list[_Row], unknown: tuple[str, ...]) -> RecordedTable:
    number_of: dict[str, int] = {}
    for row in rows:
        number_of.setdefault(row.workload, len(number_of))
    rows.sort(key=lambda row: number_of[row.workload])
    seen: dict[str, dict[Choice, None]] = {name: {} for name in (*AXES, *unknown)}
    for row in rows:
        for name, choice in row.choices.items():
            seen[name].setdefault(choice)
    varying = {name: tuple(choices) for name, choices in seen.items() if len(choices) > 1}
    decided = frozenset(n for n in varying if n in unknown or AXES[n].of_variant)
    workloads = [number_of[row.workload] for row in rows]
    varied = [{n: row.choices[n] for n in varying if n in row.choices} for row in rows]
    catalogue = Catalogue(varying, decided, encode(varying, varied), np.array(workloads))
    if len(np.unique(catalogue.codes, axis=0)) < len(catalogue):
        raise TableError(f"table {path}: rows must differ in their axes, but some are alike")
    evaluations, stages = [row.evaluation for row in rows], [row.stages for row in rows]
    return RecordedTable(catalogue, evaluations, stages, unknown)


def _is_measured(column: str) -> bool:
    return column in MEASURED or column.startswith(STAGE)


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return str(error.errors()[0]["msg"])
    return str(error).splitlines()[0]


def _choices(cells: Mapping[str, str], unknown: Sequence[str]) -> dict[str, Choice]:
    """Return what a row chooses on each axis, where it chooses anything."""
    given = {name: cells[name] for name in (*AXES, *unknown) if cells.get(name, "") != ""}
    return {
        name: int(text) if name in AXES and AXES[name].numeric else text
        for name, text in given.items()
    }


def _stages(cells: Mapping[str, str]) -> dict[str, str]:
    """Return what a row says that stages took; `compile_s` is another name of the first step."""
    named = {FIRST_STEP: cells.get("compile_s", "")} | {
        name.removeprefix(STAGE): text for name, text in cells.items() if name.startswith(STAGE)
    }
    return {stage: text for stage, text in named.items() if text}


def _evaluation(cells: Mapping[str, str]) -> Evaluation:
    given = _choices(cells, ())
    # One step of a fixed length was recorded, unless the table says otherwise.
    of = {"new_tokens": 1} | {n: v for n, v in given.items() if not AXES[n].of_variant}
    workload = Workload.model_validate(of)
    choices = {name: value for name, value in given.items() if AXES[name].of_variant}
    configuration = Configuration.of(workload, choices)
    outcome = _outcome(cells)
    if not cells["latency_ms"]:
        if outcome is Outcome.MEASURED:
            raise ValueError("latency_ms must be a number where something was measured, got none")
        return Evaluation(configuration=configuration, outcome=outcome, reason="as recorded")
    peak = cells.get("peak_mib")
    memory_mib = float(cells["peak_bytes"]) / 2**20 if peak is None else float(peak)
    numbers = _measurements(float(cells["latency_ms"]), memory_mib)
    return Evaluation(configuration=configuration, outcome=outcome, measurements=numbers)


def _outcome(cells: Mapping[str, str]) -> Outcome:
    if "outcome" in cells:
        return Outcome(cells["outcome"])
    if cells["status"] not in STATUSES:
        raise ValueError(f"status must be one of {', '.join(STATUSES)}, got {cells['status']}")
    return STATUSES[cells["status"]]


def _measurements(latency_ms: float, memory_mib: float) -> Measurements:
    if not (LEAST <= latency_ms <= MOST and LEAST <= memory_mib <= MOST):
        raise ValueError(
            f"measured numbers must be positive and finite, {LEAST:g} to {MOST:g}, "
            f"got {latency_ms} ms, {memory_mib} MiB"
        )
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
