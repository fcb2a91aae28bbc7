"""The result of profiling one configuration: where its time goes and where its memory peaks."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from variants.configuration import Configuration


class OperatorTime(BaseModel):
    """One operator or runtime call over all steps, without what it calls."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    calls: int
    host_ms: float
    device_ms: float  # of the kernels that it launched; 0 on CPU


class KernelTime(BaseModel):
    """One device kernel over all steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    calls: int
    device_ms: float
    share: float  # of all kernels' time


class Allocated(BaseModel):
    """What one operator allocates over all steps, and how much of it exists at the peak."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    operator: str
    calls: int  # allocations
    allocated_mib: float
    at_peak_mib: float


class StageMemory(BaseModel):
    """Memory over one stage, beyond what was there before the configuration was built."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    peak_mib: float
    after_mib: float


class Profile(BaseModel):
    """Where the time of a configuration's steps goes, and where its memory peaks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    configuration: Configuration
    steps: int  # that were profiled
    operators: tuple[OperatorTime, ...]  # by falling host time and device time
    kernels: tuple[KernelTime, ...]  # by falling time; empty on CPU
    launches: int  # kernels, copies and fills over all steps
    device_busy_ms: float  # over all steps, without gaps
    memory: tuple[StageMemory, ...]  # in order
    # By falling share of the peak, whose parts they are; what was there before stands among them.
    allocations: tuple[Allocated, ...]
    trace: str  # name of the Chrome trace in the folder
    snapshot: str | None  # of the CUDA memory snapshot; None on CPU, which has none
