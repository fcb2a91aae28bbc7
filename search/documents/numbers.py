"""The numbers of one configuration, as tables show them: of turns where there are such."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from objectives.schema.evaluation import Evaluation, Outcome
from search.documents.json_document import Part
from studies.results.candidate import Candidate
from studies.results.front import WorkloadResult
from studies.results.labels import variant_label
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
    latency_low_ms: float | None = Field(description="Its 95 % interval, lower end")
    latency_high_ms: float | None = Field(description="Its 95 % interval, upper end")
    gpu_ms: float | None = Field(description="GPU time of the step; null on a CPU")
    host_ms: float | None = Field(description="The host's time to enqueue the step")
    faster: float | None = Field(
        description="The default's latency divided by this one; above 1 is faster"
    )
    faster_low: float | None = Field(description="Its 95 % interval, lower end")
    faster_high: float | None = Field(description="Its 95 % interval, upper end")
    verdict: Word | None = Field(
        description="On its latency against the default's; null where that failed"
    )
    peak_memory_mib: float | None = Field(description="Peak memory")
    smaller: float | None = Field(
        description="The default's peak memory divided by this one; above 1 is smaller"
    )
    relative_error: float | None = Field(description="Against the same function in high precision")


def configuration_numbers(candidate: Candidate, result: WorkloadResult) -> ConfigurationNumbers:
    """Return the numbers of a candidate of a workload."""
    numbers = failed_numbers(candidate.evaluation)
    latency, verdict = candidate.measurements.latency, candidate.verdict
    return numbers.model_copy(
        update={
            "trial": candidate.number,
            "backend_ran": candidate.measurements.backend_ran,
            "label": variant_label(
                candidate.evaluation.configuration.variant, candidate.measurements.backend_ran
            ),
            "in_turns": candidate.turns is not None,
            "latency_ms": candidate.latency,
            "latency_low_ms": latency.low_ms,
            "latency_high_ms": latency.high_ms,
            "gpu_ms": None if latency.gpu is None else latency.gpu.value,
            "host_ms": latency.host.value,
            "faster": 1 / result.latency_ratio(candidate),
            "faster_low": None if verdict is None else 1 / verdict.high,
            "faster_high": None if verdict is None else 1 / verdict.low,
            "verdict": None if verdict is None else verdict.word,
            "peak_memory_mib": candidate.memory,
            "smaller": 1 / result.memory_ratio(candidate),
            "relative_error": candidate.error,
        }
    )


def default_numbers(result: WorkloadResult) -> ConfigurationNumbers:
    """Return the numbers of a workload's default, or what became of it."""
    found = next((one for one in result.measured if one.number is None), None)
    if found is not None:
        return configuration_numbers(found, result)
    numbers, measured = failed_numbers(result.default), result.default.measurements
    if measured is None:
        return numbers
    latency = measured.latency  # inaccurate, or it stalls: measured all the same
    return numbers.model_copy(
        update={
            "backend_ran": measured.backend_ran,
            "latency_ms": latency.latency_ms,
            "latency_low_ms": latency.low_ms,
            "latency_high_ms": latency.high_ms,
            "gpu_ms": None if latency.gpu is None else latency.gpu.value,
            "host_ms": latency.host.value,
            "faster": 1.0,
            "peak_memory_mib": measured.memory.peak_mib,
            "smaller": 1.0,
            "relative_error": measured.relative_error,
        }
    )


def failed_numbers(evaluation: Evaluation) -> ConfigurationNumbers:
    """Return a configuration without numbers, and what became of it."""
    variant = evaluation.configuration.variant
    numbers: dict[str, Any] = dict.fromkeys(ConfigurationNumbers.model_fields)
    return ConfigurationNumbers(
        **numbers
        | {
            "label": variant_label(variant),
            "variant": variant.model_dump(mode="json", exclude_none=True),
            "outcome": evaluation.outcome,
            "reason": evaluation.reason,
            "in_turns": False,
        }
    )
