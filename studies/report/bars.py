"""Where the time and the memory of a configuration go, as bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from objectives.schema.evaluation import Evaluation, Measurements
from studies.results.labels import duration, mebibytes, milliseconds, variant_label


@dataclass(frozen=True, slots=True)
class BarPart:
    """One part of a bar: what a share of the time or memory is spent on."""

    name: str
    kind: str  # its colour
    share: float  # of the longest bar, in percent
    text: str


@dataclass(frozen=True, slots=True)
class Bar:
    """What a configuration's time or memory consists of."""

    label: str
    total: str
    parts: tuple[BarPart, ...]
    beside: str  # what is outside of it


@dataclass(frozen=True, slots=True)
class Bars:
    """A bar for each of several configurations, on one scale."""

    title: str
    bars: tuple[Bar, ...]

    @property
    def legend(self) -> dict[str, str]:
        """What each colour stands for, as far as it occurs."""
        return {part.kind: part.name for bar in self.bars for part in bar.parts}


Picked = Sequence[tuple[str, Evaluation, Measurements]]  # as what it was chosen


def time_bars(picked: Picked) -> Bars:
    """Return the step's time: what the GPU works, and how long it waits for the host."""
    longest = max((measured.latency.latency_ms for _, _, measured in picked), default=0.0)
    bars = []
    for name, evaluation, measured in picked:
        latency = measured.latency
        if latency.gpu is None:
            pieces = [("CPU computes", "work", latency.latency_ms)]
        else:
            works = min(latency.gpu.value, latency.latency_ms)
            waits = latency.latency_ms - works
            pieces = [("GPU works", "work", works), ("GPU waits for the host", "wait", waits)]
        host = f"host {milliseconds(latency.host.value)} ms, " if latency.gpu is not None else ""
        first = f"first step {_once(latency.first_step_ms)}"
        length = latency.new_length_ms
        stall = f", each new length {milliseconds(length)} ms more" if length else ""
        bars.append(
            Bar(
                label=f"{variant_label(evaluation.configuration.variant)} ({name})",
                total=f"{milliseconds(latency.latency_ms)} ms",
                parts=_parts(pieces, longest, lambda value: f"{milliseconds(value)} ms"),
                beside=host + first + stall,
            )
        )
    return Bars("Where the time goes", tuple(bars))


def memory_bars(picked: Picked) -> Bars:
    """Return the peak: what layers keep, and what lives only inside of a step."""
    largest = max((measured.memory.peak_mib for _, _, measured in picked), default=0.0)
    bars = []
    for name, evaluation, measured in picked:
        memory, layers = measured.memory, evaluation.configuration.workload.layers
        pieces = [
            ("weights", "weights", layers * memory.weights_mib),
            ("KV cache", "cache", layers * memory.cache_mib),
            ("gradients", "gradients", layers * memory.gradients_mib),
            ("saved for backward", "saved", layers * memory.saved_mib),
            ("inputs and temporaries", "transient", memory.transient_mib),
        ]
        beside = []
        if memory.workspace_mib is not None:
            beside.append(f"library workspaces {mebibytes(memory.workspace_mib)} MiB")
        if memory.reserved_mib is not None:
            beside.append(f"reserved by the allocator {mebibytes(memory.reserved_mib)} MiB")
        bars.append(
            Bar(
                label=f"{variant_label(evaluation.configuration.variant)} ({name})",
                total=f"{mebibytes(memory.peak_mib)} MiB",
                parts=_parts(pieces, largest, lambda value: f"{mebibytes(value)} MiB"),
                beside=", ".join(beside),
            )
        )
    return Bars("Where the memory goes", tuple(bars))


def _once(spent_ms: float) -> str:
    return duration(spent_ms / 1e3) if spent_ms >= 1e3 else f"{milliseconds(spent_ms)} ms"


def _parts(
    pieces: list[tuple[str, str, float]], longest: float, text: Callable[[float], str]
) -> tuple[BarPart, ...]:
    return tuple(
        BarPart(name, kind, 100 * value / longest, text(value))
        for name, kind, value in pieces
        if value > 0
    )
