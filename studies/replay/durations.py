"""How long the trials of a recorded table took: what virtual time is made of."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from studies.replay.table import FIRST_STEP, RecordedTable, TableError

# Of a trial whose stages were not recorded, beside its first step: build, check, memory, kernels,
# latency samples, and what is freed and sent. Measured by `python -m benchmarks.overhead`.
REST_S = 0.55
# Of the same: three passes over 8 lengths, and as many samples as the median needs at least. That
# is little beside the rest unless a step is slow.
STEPS = 40
_MODEL = f"{REST_S:g} s and {STEPS} steps at the recorded latency"
WHOLE = "all stages as recorded"
FIRST = f"the first call as recorded, compilation included, {_MODEL}"
NOTHING = f"{_MODEL}, where there is one: nothing of their time is recorded"


@dataclass(frozen=True, slots=True)
class Durations:
    """Seconds of the trials of a table, and what they are, for the user."""

    seconds: NDArray[np.float64]  # by configuration of the catalogue
    words: str


def durations_of(table: RecordedTable) -> Durations:
    """Return the recorded stages of each trial, or a model of those that were not recorded.

    Raises:
        TableError: What stages took is no number of seconds.
    """
    seconds, kinds = [], Counter[str]()
    for stages, evaluation in zip(table.stages, table.evaluations, strict=True):
        spent = sum(_read(stages).values())
        kind = _kind(stages)
        if kind != WHOLE:
            spent += REST_S + STEPS * (evaluation.latency_ms or 0.0) / 1000
        seconds.append(spent)
        kinds[kind] += 1
    words = "; ".join(f"{count} configurations take {kind}" for kind, count in kinds.items())
    return Durations(np.array(seconds), words)


def _kind(stages: Mapping[str, str]) -> str:
    if stages.keys() - {FIRST_STEP}:
        return WHOLE
    return FIRST if stages else NOTHING


def _read(stages: Mapping[str, str]) -> dict[str, float]:
    spent = {}
    for stage, text in stages.items():
        try:
            spent[stage] = float(text)
        except ValueError:
            spent[stage] = math.nan
        if not 0 <= spent[stage] < math.inf:
            raise TableError(f"what the {stage} took must be a number of seconds, got {text}")
    return spent
