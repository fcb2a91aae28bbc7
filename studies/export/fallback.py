"""Where nothing beats the default, the default is the choice."""

from __future__ import annotations

import math
from collections.abc import Sequence

from studies.export.single import Single, cost
from studies.results.candidate import Candidate
from studies.results.front import Preference, WorkloadResult
from variants.deploy.model_choice import ModelChoice
from variants.variant import Variant


def default_of(result: WorkloadResult) -> Candidate | None:
    """Return the default among what was measured, or None where it is not."""
    key = result.default.configuration.variant.key
    return next((one for one in result.measured if one.key == key), None)


def beats_default(candidate: Candidate, result: WorkloadResult, choice: Preference) -> bool:
    """Tell whether a candidate is better than the default in what a choice minimises.

    Where the two latencies are equal, or the same within their margin, memory counts, and the
    other way round. What is slower than the default is no better balance.
    """
    if candidate.key == result.default.configuration.variant.key:
        return False
    latency, memory = _shares(candidate, result)
    if choice == "lowest_latency":
        return (latency, memory) < (1.0, 1.0)
    if choice == "lowest_memory":
        return (memory, latency) < (1.0, 1.0)
    return not candidate.loses and memory * latency < 1.0


def _shares(candidate: Candidate, result: WorkloadResult) -> tuple[float, float]:
    """Return latency and memory as shares of the default's."""
    verdict = candidate.verdict
    same = verdict is not None and verdict.word == "same"
    latency = 1.0 if same else result.latency_ratio(candidate)
    return latency, result.memory_ratio(candidate)


def _or_default(
    candidate: Candidate, result: WorkloadResult, choice: Preference, default: Candidate
) -> Candidate:
    return candidate if beats_default(candidate, result, choice) else default


def single_or_default(
    single: Single | None, results: Sequence[WorkloadResult], choice: Preference
) -> Single | None:
    """Return one choice for all workloads, or the defaults of all where it does not beat them.

    What it costs is the geometric mean over the workloads that it serves; the default costs 1. A
    choice that is better on the whole is kept where it loses for one workload, unless the default
    for that one has the same type, quantization and cache: of these a model has one.
    """
    if single is None:
        return None
    by_key = {result.workload.key: result for result in results if result.measured}
    found = {key: default_of(result) for key, result in by_key.items()}
    defaults = {key: default for key, default in found.items() if default is not None}
    if len(defaults) < len(found):
        return single
    served = [(candidate, by_key[key]) for key, candidate in single.candidates.items()]
    if _beats_all(served, choice):
        chosen = {
            key: _or_default(candidate, by_key[key], choice, defaults[key])
            if _of_same_model(candidate, defaults[key])
            else candidate
            for key, candidate in single.candidates.items()
        }
        return Single(single.model, chosen, single.regrets, single.missing)
    model = _merged([ModelChoice.of(_variant(default)) for default in defaults.values()])
    if model is None:
        return single
    regrets = {key: _regret(default, by_key[key], choice) for key, default in defaults.items()}
    return Single(model, defaults, regrets, ())


def _beats_all(served: Sequence[tuple[Candidate, WorkloadResult]], choice: Preference) -> bool:
    beating = [beats_default(candidate, result, choice) for candidate, result in served]
    if all(beating) or not any(beating):
        return any(beating)
    return sum(math.log(_cost(*one, choice)) for one in served) < 0


def _cost(candidate: Candidate, result: WorkloadResult, choice: Preference) -> float:
    latency, memory = _shares(candidate, result)
    if choice == "balanced":
        return math.sqrt(latency * memory)
    return latency if choice == "lowest_latency" else memory


def _regret(default: Candidate, result: WorkloadResult, choice: Preference) -> float:
    least = cost(result.winners[choice].candidate, choice, result)
    return max(0.0, cost(default, choice, result) / least - 1)


def _of_same_model(one: Candidate, other: Candidate) -> bool:
    return ModelChoice.of(_variant(one)) == ModelChoice.of(_variant(other))


def _variant(candidate: Candidate) -> Variant:
    return candidate.evaluation.configuration.variant


def _merged(models: Sequence[ModelChoice]) -> ModelChoice | None:
    """Return what all choices are together, or None where two contradict each other."""
    merged: ModelChoice | None = models[0]
    for model in models[1:]:
        merged = None if merged is None else merged.merged(model)
    return merged
