"""Fronts and winners of one workload: which configurations are worth choosing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from objectives.schema.evaluation import Evaluation, Measurements, Outcome
from objectives.schema.limits import Limits
from studies.study.baseline import WorkloadBaseline
from studies.study.finalists import Finalist, FinalistTimings
from variants.workload import Workload

MOST_FINALISTS = 8  # besides the default; they have to be built and timed again
Preference = Literal["lowest_latency", "lowest_memory", "balanced"]
PREFERENCES: tuple[Preference, ...] = ("lowest_latency", "lowest_memory", "balanced")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration that was measured, accurate and usable."""

    number: int | None  # of its trial; None for the default
    evaluation: Evaluation

    @property
    def measurements(self) -> Measurements:
        """The measured numbers."""
        assert self.evaluation.measurements is not None
        return self.evaluation.measurements

    @property
    def memory(self) -> float:
        """Peak memory in MiB."""
        return self.measurements.memory.peak_mib

    @property
    def latency(self) -> float:
        """Latency in ms."""
        return self.measurements.latency.latency_ms

    @property
    def key(self) -> str:
        """The variant's key, which tells it from others of its workload."""
        return self.evaluation.configuration.variant.key

    @property
    def rank(self) -> tuple[int, ...]:
        """Sorts configurations from simple to elaborate: ties go to the simpler."""
        return self.evaluation.configuration.variant.rank


@dataclass(frozen=True, slots=True)
class Winner:
    """The candidate of one choice, and what cannot be told from it by latency."""

    candidate: Candidate
    ties: tuple[Candidate, ...]  # by rising memory


@dataclass(frozen=True, slots=True)
class WorkloadResult:
    """What a study found for one workload: its default, its front and its winners."""

    workload: Workload
    default: Evaluation
    baseline: WorkloadBaseline
    measured: tuple[Candidate, ...]  # the default among them, if it was
    front: tuple[Candidate, ...]  # by rising memory
    winners: dict[Preference, Winner]  # empty when nothing was measured
    # The same among those within `Limits().max_error`, where a study accepts larger errors.
    strict_winners: dict[Preference, Winner]
    finals: FinalistTimings | None = None  # None until the finalists were timed again

    def retimed(self, variant: str) -> Finalist | None:
        """Return what came of timing a variant in turns with the default, where it was."""
        if self.finals is None or self.finals.reference != self.default.configuration.variant.key:
            return None
        return self.finals.of(variant)

    def latency_ratio(self, candidate: Candidate) -> float:
        """Return a candidate's latency as a share of the default's, from turns where possible."""
        again = self.retimed(candidate.key)
        return (
            candidate.latency / self.baseline.latency_ms if again is None else again.latency.ratio
        )


def candidates(evaluations: Iterable[tuple[int | None, Evaluation]]) -> list[Candidate]:
    """Return the MEASURED ones of (trial number, evaluation)."""
    return [
        Candidate(number, evaluation)
        for number, evaluation in evaluations
        if evaluation.outcome is Outcome.MEASURED
    ]


def front(measured: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Return the non-dominated ones by rising memory; of equals, the simplest."""
    best: list[Candidate] = []
    for candidate in sorted(measured, key=lambda c: (c.memory, c.latency, c.rank)):
        if not best or candidate.latency < best[-1].latency:
            best.append(candidate)
    return tuple(best)


def strict(measured: Sequence[Candidate], limits: Limits) -> list[Candidate]:
    """Return those within the usual error where `limits` accepts more; none where it does not."""
    usual = Limits().max_error
    if limits.max_error <= usual:
        return []
    return [c for c in measured if c.measurements.relative_error <= usual]


def winners(
    measured: Sequence[Candidate],
    baseline: WorkloadBaseline,
    finals: FinalistTimings | None = None,
) -> dict[Preference, Winner]:
    """Choose the lowest latency, the lowest memory and the best balance of both.

    Balanced is the least geometric mean of the two ratios to the default. What cannot be told
    apart by latency is a tie: of those, the one that needs the least memory is named (memory is
    exact), and of equals the simplest. Finalists are told apart by their verdicts in turns;
    before there are any, by the 95 % intervals of their trials.
    """
    pool = measured if finals is None else _competing(measured, finals)
    if not pool:
        return {}

    def latency(candidate: Candidate) -> float:
        again = None if finals is None else finals.of(candidate.key)
        return candidate.latency if again is None else again.latency_ms

    def balance(candidate: Candidate) -> float:
        return math.sqrt(
            (candidate.memory / baseline.peak_memory_mib)
            * (latency(candidate) / baseline.latency_ms)
        )

    def tied(one: Candidate, other: Candidate) -> bool:
        known = None if finals is None else finals.tied(one.key, other.key)
        return _overlap(one, other) if known is None else known

    fastest = min(pool, key=latency)
    smallest = min(pool, key=lambda c: (c.memory, latency(c)))
    balanced = min(pool, key=balance)
    return {
        "lowest_latency": _best_of_tie([c for c in pool if tied(c, fastest)]),
        "lowest_memory": _best_of_tie(
            [c for c in pool if c.memory == smallest.memory and tied(c, smallest)]
        ),
        "balanced": _best_of_tie(
            [c for c in pool if c.memory == balanced.memory and tied(c, balanced)]
        ),
    }


def finalists(result: WorkloadResult) -> tuple[Evaluation, ...]:
    """Return what is worth timing again, first of all what the others are timed against.

    That is the default if it ran at all, else what won the lowest latency. Then the winners,
    what ties with them, and the rest of the front by rising latency, up to `MOST_FINALISTS`.
    Empty where there is nothing to compare.
    """
    won = (*result.winners.values(), *result.strict_winners.values())
    ranked = [winner.candidate for winner in won]
    ranked += [tie for winner in won for tie in winner.ties]
    ranked += sorted(result.front, key=lambda c: c.latency)
    reference = result.default
    if reference.measurements is None and ranked:
        reference = ranked[0].evaluation
    unique = {c.key: c.evaluation for c in ranked}
    unique.pop(reference.configuration.variant.key, None)
    if not unique:
        return ()
    return (reference, *list(unique.values())[:MOST_FINALISTS])


def _competing(measured: Sequence[Candidate], finals: FinalistTimings) -> list[Candidate]:
    """Return those who can win once finalists were timed again.

    They themselves, and whoever none of them dominates by the numbers of their trials: what came
    later, had no room beside the default, or is left where finalists are not admitted. Among
    others, the luckiest of many noisy trials would win against honest times.
    """
    retimed = [c for c in measured if finals.of(c.key) is not None]
    return [
        candidate
        for candidate in measured
        if candidate in retimed
        or not any(
            one.memory <= candidate.memory and one.latency <= candidate.latency for one in retimed
        )
    ]


def _overlap(one: Candidate, other: Candidate) -> bool:
    a, b = one.measurements.latency, other.measurements.latency
    return a.low_ms <= b.high_ms and b.low_ms <= a.high_ms


def _best_of_tie(tied: Sequence[Candidate]) -> Winner:
    first, *rest = sorted(tied, key=lambda c: (c.memory, c.rank, c.latency))
    return Winner(first, tuple(rest))
