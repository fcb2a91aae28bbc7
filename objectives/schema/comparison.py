"""The result of timing several configurations in turns."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from variants.configuration import Configuration

# Of a verdict, whatever the time, as a step may take seconds: the range of so many holds the
# median in 97 %; that of five does in 94 %.
MIN_ROUNDS = 6


class Retimed(BaseModel):
    """What one configuration took in each round of its group, in ms a step, all layers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    configuration: Configuration
    gpu_ms: tuple[float, ...]  # mean of the steps of a pass; empty on CPU
    host_ms: tuple[float, ...]  # low quantile of the steps on CUDA, median on CPU
    held: bool | None  # False: launch gaps are in `gpu_ms`; None on CPU

    @property
    def latency_ms(self) -> tuple[float, ...]:
        """The larger of the two, in each round."""
        if not self.gpu_ms:
            return self.host_ms
        return tuple(map(max, self.gpu_ms, self.host_ms))


class Comparison(BaseModel):
    """Configurations that were timed in turns, and those that could not be.

    What does not fit into memory at once is divided into groups; the first configuration asked
    for is the first of each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: tuple[tuple[Retimed, ...], ...]
    missing: dict[str, str] = {}  # why a configuration was not timed, by its key
    seconds: float
