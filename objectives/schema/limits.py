"""Limits of a study: error, stall and memory that a user accepts, and times for measuring."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

MOST_S = 1e6  # eleven days; what a clock can wait for has an end


class Limits(BaseModel):
    """What every trial of a study is judged by, and how long measuring one may take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_error: float = Field(default=1e-2, gt=0)  # relative error
    max_stall_ms: float = Field(default=5.0, gt=0)  # extra cost of each new length
    max_memory_gib: float | None = Field(default=None, gt=0)  # peak memory
    sampling_s: float = Field(default=0.4, gt=0, le=MOST_S)  # time for latency samples of a trial
    # For a whole trial, compilation included.
    deadline_s: float = Field(default=180.0, gt=0, le=MOST_S)
