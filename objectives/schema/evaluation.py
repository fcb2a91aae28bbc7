"""The result of measuring one configuration."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from variants.configuration import Configuration


class Outcome(StrEnum):
    """What became of a configuration."""

    MEASURED = "MEASURED"  # accurate and usable: the only outcome that reaches a front
    INACCURATE = "INACCURATE"  # its error is above the limit
    STALLS = "STALLS"  # every new length costs more than the limit
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    REFUSED = "REFUSED"  # PyTorch declined it, or another kernel ran than was asked for
    TIMED_OUT = "TIMED_OUT"
    CRASHED = "CRASHED"
    IMPLAUSIBLE = "IMPLAUSIBLE"  # faster than physics allows
    THROTTLED = "THROTTLED"  # no sample was taken at the device's usual clock


# Of times in ms and sizes in MiB: a femtosecond or less than a bit, and 30,000 years or a million
# times what the largest machine holds. Nobody measured what is beyond.
LEAST, MOST = 1e-9, 1e15
Measured = Annotated[float, Field(ge=LEAST, le=MOST)]
# Of a host reference, which takes some tenths of a millisecond, and of how much slower a host can
# be than at its best.
HostReferenceMs = Annotated[float, Field(ge=1e-3, le=1e3)]
HostSpeed = Annotated[float, Field(ge=1e-4, le=1e4)]
# Rates, and ratios of what was measured: others are divided by it, and it by others.
Positive = Annotated[float, Field(ge=1e-30, le=1e30)]


# Parts of the time that a trial takes, in order: in the measuring process, then in its parent.
Stage = Literal[
    "free",
    "build",
    "first step",
    "check",
    "second check",
    "memory",
    "kernels",
    "latency",
    "second look",
    "ahead",
    "transfer",
    "worker start",
]


class Samples(BaseModel):
    """Statistics of samples of one quantity, in milliseconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quantile: float  # which quantile `value` is; 0.5 is the median
    value: Measured
    low: float  # 95 % interval of `value`
    high: float
    iqr: float
    count: int  # of GPU times: passes, where six or more were taken; else steps
    # Why sampling ended; throttled: further samples would have been discarded.
    stopped: Literal["precise", "time", "count", "throttled"]

    def times(self, factor: float) -> Self:
        """Return the samples as if each were so many times as long."""
        names = ("value", "low", "high", "iqr")
        return self.model_copy(update={name: getattr(self, name) * factor for name in names})


class Latency(BaseModel):
    """What one step costs in a loop that keeps the GPU fed, for all layers, in milliseconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency_ms: Measured  # the larger of the two below
    low_ms: Measured  # 95 % interval of the binding part
    high_ms: Measured
    bound: Literal["gpu", "host"]
    gpu: Samples | None  # cold L2, without launch gaps; None on CPU
    held: bool | None  # False: the stream could not be held, so launch gaps are in `gpu`
    host: Samples  # time to enqueue the step; on CPU, to compute it
    # What the host reference took beside the steps, see `objectives.timing.host_reference`; None
    # on a CPU, and where the stream was not held.
    yardstick_ms: HostReferenceMs | None = None
    host_speed: HostSpeed | None = None  # by which `host` was multiplied; 1.0 at full speed
    first_step_ms: float  # one-time compile and warm-up included
    # What the first visit to a length costs beyond a later one; None outside decode.
    new_length_ms: float | None

    @classmethod
    def of(cls, gpu: Samples | None, host: Samples, **others: Any) -> Self:
        """Return the latency that the larger of its parts binds."""
        binding = gpu if gpu is not None and gpu.value >= host.value else host
        return cls(
            latency_ms=binding.value,
            low_ms=binding.low,
            high_ms=binding.high,
            bound="gpu" if binding is gpu else "host",
            gpu=gpu,
            host=host,
            **others,
        )

    def at_host_speed(self, speed: float) -> Self:
        """Return the latency as of a host at full speed; it was taken at `speed` of that."""
        parts = {"latency_ms", "low_ms", "high_ms", "bound", "gpu", "host", "host_speed"}
        others = self.model_dump(exclude=parts)
        return self.of(self.gpu, self.host.times(speed), host_speed=speed, **others)


class Memory(BaseModel):
    """The allocator's peak over the steps, beyond what was there before, in MiB.

    `peak_mib = layers · (weights_mib + cache_mib + gradients_mib + saved_mib) + transient_mib`:
    layers run one after another, and what only lives inside of one step is needed once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    peak_mib: Measured
    weights_mib: float  # of one layer
    cache_mib: float  # of one layer: keys, values and their scales
    gradients_mib: float = 0.0  # of one layer's weights, in training
    saved_mib: float = 0.0  # what one layer keeps from forward to backward, its output included
    transient_mib: float  # inputs, biases and temporaries
    reserved_mib: float | None  # peak of the segments that the allocator held; None on CPU
    workspace_mib: float | None  # library workspaces, outside the peak; None on CPU


class Conditions(BaseModel):
    """What the GPU was like while it was timed, by NVML."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sm_mhz: tuple[int, int] | None  # lowest and highest; None where nothing could be read
    temperature_c: int | None  # the highest
    limits: tuple[str, ...] = ()  # what kept the clock from being higher, at any time
    discarded: int = 0  # bursts of samples that were taken under throttling
    unread: str = ""  # why nothing could be read: throttling was not watched for


class Roofline(BaseModel):
    """What a configuration needs at least, and how near its measurement came, all layers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency_ms: float
    memory_mib: float
    limit: Literal["operations", "bandwidth"]  # what the latency comes from
    latency_share: float  # of GPU time (on CPU, of latency) that is the bound
    memory_share: float  # of peak memory that is the bound
    rates: Literal["measured", "datasheet", "typical"]  # whose they are


class Measurements(BaseModel):
    """All numbers of one configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    latency: Latency
    memory: Memory
    relative_error: float  # ‖out − ref‖ / ‖ref‖; infinite when the output has NaN or Inf
    backend_ran: str | None  # by the profiler, whatever was asked for
    kernels: tuple[str, ...] = ()  # attention operators and device kernels of one step
    conditions: Conditions | None = None  # None on CPU
    roofline: Roofline | None = None  # None until it is placed under the study's rates


class Evaluation(BaseModel):
    """What happened to one configuration, with the numbers if there are any."""

    # JSON has no infinity, and null would lose that the error is one.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    configuration: Configuration
    outcome: Outcome
    reason: str = ""  # one line; empty when MEASURED
    measurements: Measurements | None = None
    # Time in the worker by stage; with the parent's, it explains where a run's time went.
    seconds: dict[str, float] = {}

    @property
    def latency_ms(self) -> float | None:
        """Latency of a step, if it was measured."""
        return None if self.measurements is None else self.measurements.latency.latency_ms

    @property
    def peak_memory_mib(self) -> float | None:
        """Peak memory, if it was measured."""
        return None if self.measurements is None else self.measurements.memory.peak_mib
