"""How long a stage of a trial may take, learnt from how long it took others.

A process that hangs should not cost what the slowest honest configuration may need. Compiling and
each part of measuring are learnt apart, and apart for each way to compute: compiling FlexAttention
says nothing about launching cuDNN. A configuration is held to what others took only if they
needed at least as much by their roofline, so that no large one is judged by small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from objectives.roofline.bound import bound
from variants.configuration import Configuration
from variants.device import Device

MARGIN = 10.0  # times the longest seen
SIGHTINGS = 3  # before anything is concluded
# What a stage may always take. A compiler's cache may have answered so far, and answer no more.
LEAST_S = {"first step": 60.0, "second look": 60.0}
LEAST_ELSE_S = 30.0

_Kind = tuple[str, ...]


class Deadlines:
    """How long the stages of trials took in this run, and how long the next may take."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s  # of a whole trial, and of any stage
        # By kind: what each trial needed by its roofline, in ms, and took, in s.
        self._seen: dict[_Kind, list[tuple[float, float]]] = {}

    def of(self, configuration: Configuration, device: Device) -> Callable[[str], float]:
        """Return what tells the seconds that a stage of this configuration may take."""
        needed = _needed(configuration, device)

        def limit_s(stage: str) -> float:
            seen = self._seen.get(_kind(stage, configuration), [])
            took = [seconds for least, seconds in seen if least >= needed]
            if len(took) < SIGHTINGS:
                return self._deadline_s
            least_s = LEAST_S.get(stage, LEAST_ELSE_S)
            return min(self._deadline_s, max(least_s, MARGIN * max(took)))

        return limit_s

    def learn(
        self, configuration: Configuration, device: Device, seconds: Mapping[str, float]
    ) -> None:
        """Remember what the stages of a finished trial took."""
        needed = _needed(configuration, device)
        for stage, took in seconds.items():
            self._seen.setdefault(_kind(stage, configuration), []).append((needed, took))


def _needed(configuration: Configuration, device: Device) -> float:
    """Return what all steps of one layer need by the roofline: that is what a trial runs."""
    workload = configuration.workload
    return bound(configuration, device).latency_ms / workload.layers * workload.new_tokens


def _kind(stage: str, configuration: Configuration) -> _Kind:
    variant = configuration.variant
    return stage, variant.backend, variant.precision, variant.quantization, variant.execution
