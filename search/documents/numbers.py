"""The numbers of one configuration, as tables show them: of turns where there are such."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from objectives.schema.evaluation import Evaluation, Outcome
from search.documents.json_document import Part
from studies.results.front import WorkloadResult
from studies.results.labels import variant_label
from studies.study.finalists import Finalist
from studies.study.verdicts import Word


class ConfigurationNumbers(Part):
    """A configuration of a workload with its numbers; null where it has none."""

    trial: int | None = Field(description="Number of its trial; null: the default")
    label: str = Field(description="The variant in words, as tables have it")
    variant: dict[str, str] = Field(description="Its choice for each axis that it has")
    outcome: Outcome = Field(description="What became of it")
    reason: str = Field(description="Why it is not MEASURED; else empty")
    backend_ran: str | None = Field(description="The backend whose kernel ran")
    in_turns: bool = Field(
        description="Whether its times are those taken in turns with the default, else its trial's"
    )
    latency_ms: float | None = Field(description="A step of all layers")
    latency_low_ms: float | None = Field(
        description="95 % interval of its trial; null where times are of turns"
    )
    latency_high_ms: float | None = Field(description="Its other end")
    gpu_ms: float | None = Field(description="GPU time of the step; null on a CPU")
    host_ms: float | None = Field(description="The host's time to enqueue the step")
    faster: float | None = Field(
        description="The default's latency divided by this one; above 1 is faster"
    )
    faster_low: float | None = Field(
        description="95 % interval of that from turns; null where there were none"
    )
    faster_high: float | None = Field(description="Its other end")
    verdict: Word | None = Field(
        description="On its latency against the default's, from turns; null where there were none"
    )
    peak_memory_mib: float | None = Field(description="Peak memory")
    smaller: float | None = Field(
        description="The default's peak memory divided by this one; above 1 is smaller"
    )
    relative_error: float | None = Field(description="Against the same function in high precision")


def configuration_numbers(
    number: int | None, evaluation: Evaluation, result: WorkloadResult
) -> ConfigurationNumbers:
    """Return the numbers of an evaluation of a workload; `number` is its trial's."""
    measured, variant = evaluation.measurements, evaluation.configuration.variant
    ran = None if measured is None else measured.backend_ran
    again = None if measured is None else result.retimed(variant.key)
    baseline = result.baseline
    memory = evaluation.peak_memory_mib
    return ConfigurationNumbers(
        trial=number,
        label=variant_label(variant, ran),
        variant=variant.model_dump(mode="json", exclude_none=True),
        outcome=evaluation.outcome,
        reason=evaluation.reason,
        backend_ran=ran,
        in_turns=again is not None,
        peak_memory_mib=memory,
        smaller=None if memory is None else baseline.peak_memory_mib / memory,
        relative_error=None if measured is None else measured.relative_error,
        **(_of_trial(evaluation, baseline.latency_ms) if again is None else _of_turns(again)),
    )


def _of_trial(evaluation: Evaluation, default_ms: float) -> dict[str, Any]:
    measured = evaluation.measurements
    if measured is None:
        names = ("latency_ms", "latency_low_ms", "latency_high_ms", "gpu_ms", "host_ms")
        return dict.fromkeys((*names, "faster", "faster_low", "faster_high", "verdict"))
    latency = measured.latency
    return {
        "latency_ms": latency.latency_ms,
        "latency_low_ms": latency.low_ms,
        "latency_high_ms": latency.high_ms,
        "gpu_ms": None if latency.gpu is None else latency.gpu.value,
        "host_ms": latency.host.value,
        "faster": default_ms / latency.latency_ms,
        "faster_low": None,
        "faster_high": None,
        "verdict": None,
    }


def _of_turns(again: Finalist) -> dict[str, Any]:
    return {
        "latency_ms": again.latency_ms,
        "latency_low_ms": None,
        "latency_high_ms": None,
        "gpu_ms": again.gpu_ms,
        "host_ms": again.host_ms,
        "faster": 1 / again.latency.ratio,
        "faster_low": 1 / again.latency.high,
        "faster_high": 1 / again.latency.low,
        "verdict": again.latency.word,
    }
