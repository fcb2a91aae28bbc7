"""The best single choice for a model: what cannot change from batch to batch, chosen once.

Weights have one precision and one quantization, a sequence has one cache. So every choice of
these is judged by the best that it allows for each workload, and by how much worse that is than
the workload's own winner: its regret.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from studies.results.candidate import Candidate
from studies.results.front import Preference, WorkloadResult, winners
from variants.deploy.model_choice import ModelChoice


@dataclass(frozen=True, slots=True)
class Single:
    """One choice of the model's axes for all workloads, and what it costs each of them."""

    model: ModelChoice
    candidates: Mapping[str, Candidate]  # by workload key; the best that the choice allows
    regrets: Mapping[str, float]  # 0.1: a tenth worse than the workload's own winner
    missing: tuple[str, ...]  # workloads for which nothing of the choice was measured

    @property
    def mean_regret(self) -> float:
        """The mean regret of the workloads that were measured with it."""
        return sum(self.regrets.values()) / len(self.regrets)

    @property
    def worst_regret(self) -> float:
        """The regret of the workload that loses the most."""
        return max(self.regrets.values())


def cost(candidate: Candidate, preference: Preference, result: WorkloadResult) -> float:
    """Return what a preference minimises: latency, memory, or the geometric mean of both."""
    latency, memory = result.latency_ratio(candidate), result.memory_ratio(candidate)
    if preference == "lowest_latency":
        return latency
    return memory if preference == "lowest_memory" else math.sqrt(memory * latency)


def best_single(
    results: Sequence[WorkloadResult], preference: Preference, *, worst_first: bool = False
) -> Single | None:
    """Return the choice of least mean regret, or None where nothing was measured.

    Those that were measured for every workload come first; where there is none, those that miss
    the fewest. Ties go to the smaller worst regret, then to the simpler choice. With
    `worst_first`, the worst regret counts before the mean.
    """

    def badness(single: Single) -> tuple[float, ...]:
        regrets = (single.mean_regret, single.worst_regret)
        return (len(single.missing), *(reversed(regrets) if worst_first else regrets))

    singles = judged(results, preference)
    return min(singles, key=lambda s: (*badness(s), s.model.rank)) if singles else None


def judged(results: Sequence[WorkloadResult], preference: Preference) -> list[Single]:
    """Return every choice of which anything was measured, with what it costs each workload."""
    served = [result for result in results if result.measured]
    by_choice = [_by_model_choice(result) for result in served]
    least = [
        cost(_winner(result, result.measured, preference), preference, result) for result in served
    ]
    return [
        found
        for model in _choices(by_choice)
        if (found := _judge(model, served, by_choice, least, preference)) is not None
    ]


def _by_model_choice(result: WorkloadResult) -> dict[ModelChoice, list[Candidate]]:
    found: dict[ModelChoice, list[Candidate]] = {}
    for candidate in result.measured:
        variant = candidate.evaluation.configuration.variant
        found.setdefault(ModelChoice.of(variant), []).append(candidate)
    return found


def _choices(by_choice: Sequence[Mapping[ModelChoice, object]]) -> list[ModelChoice]:
    """Return every combination of what was measured somewhere.

    Prefill has no cache and equal heads no gqa: what a workload lacks comes from another one.
    """
    seen = [model for found in by_choice for model in found]
    numbers = dict.fromkeys((m.precision, m.quantization) for m in seen)
    caches = dict.fromkeys((m.cache, m.kv_dtype) for m in seen if m.cache is not None)
    grouped = dict.fromkeys(m.gqa for m in seen if m.gqa is not None)
    return [
        ModelChoice(
            precision=precision, quantization=quantization, cache=cache, kv_dtype=kv, gqa=gqa
        )
        for (precision, quantization), (cache, kv), gqa in itertools.product(
            numbers, caches or [(None, None)], grouped or [None]
        )
    ]


def _judge(
    model: ModelChoice,
    results: Sequence[WorkloadResult],
    by_choice: Sequence[Mapping[ModelChoice, list[Candidate]]],
    least: Sequence[float],
    preference: Preference,
) -> Single | None:
    chosen: dict[str, Candidate] = {}
    regrets: dict[str, float] = {}
    missing = []
    for result, found, best in zip(results, by_choice, least, strict=True):
        key = result.workload.key
        own = found.get(model.at(result.workload))
        if own is None:
            missing.append(key)
            continue
        chosen[key] = _winner(result, own, preference)
        # A tie is won by what needs less memory, and may be a little slower than what lost.
        regrets[key] = max(0.0, cost(chosen[key], preference, result) / best - 1)
    return Single(model, chosen, regrets, tuple(missing)) if chosen else None


def _winner(
    result: WorkloadResult, among: Sequence[Candidate], preference: Preference
) -> Candidate:
    return winners(among, result.baseline)[preference].candidate
