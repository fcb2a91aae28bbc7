"""Fronts and winners of one workload: which configurations are worth choosing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from objectives.evaluation import Evaluation, Measurements, Outcome
from objectives.limits import Limits
from studies.study import Unit
from variants.workload import Workload

Choice = Literal["lowest_latency", "lowest_memory", "balanced"]
CHOICES: tuple[Choice, ...] = ("lowest_latency", "lowest_memory", "balanced")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration that was measured, accurate and usable."""

    number: int | None  # of its trial; None for the default
    evaluation: Evaluation

    @property
    def measurements(self) -> Measurements:
        """Its numbers."""
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
    def rank(self) -> tuple[int, ...]:
        """From simple to elaborate."""
        return self.evaluation.configuration.variant.rank


@dataclass(frozen=True, slots=True)
class Winner:
    """The candidate of one choice, and what cannot be told from it by latency."""

    candidate: Candidate
    ties: tuple[Candidate, ...]  # as fast within the 95 % intervals, by rising memory


@dataclass(frozen=True, slots=True)
class WorkloadResult:
    """What was found for one workload."""

    workload: Workload
    default: Evaluation
    unit: Unit
    measured: tuple[Candidate, ...]  # the default among them, if it was
    front: tuple[Candidate, ...]  # by rising memory
    winners: dict[Choice, Winner]  # empty when nothing was measured
    # The same among those within `Limits().max_error`, where a study accepts larger errors.
    strict_winners: dict[Choice, Winner]


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


def winners(measured: Sequence[Candidate], unit: Unit) -> dict[Choice, Winner]:
    """Choose the lowest latency, the lowest memory and the best balance of both.

    Balanced is the least geometric mean of the two ratios to the default. Latencies whose 95 %
    intervals overlap are a tie: of those, the one that needs the least memory is named (memory is
    exact), and of equals the simplest.
    """
    if not measured:
        return {}

    def balance(candidate: Candidate) -> float:
        return math.sqrt(
            (candidate.memory / unit.peak_memory_mib) * (candidate.latency / unit.latency_ms)
        )

    fastest = min(measured, key=lambda c: c.latency)
    smallest = min(measured, key=lambda c: (c.memory, c.latency))
    balanced = min(measured, key=balance)
    return {
        "lowest_latency": _best_of_tie([c for c in measured if _overlap(c, fastest)]),
        "lowest_memory": _best_of_tie(
            [c for c in measured if c.memory == smallest.memory and _overlap(c, smallest)]
        ),
        "balanced": _best_of_tie(
            [c for c in measured if c.memory == balanced.memory and _overlap(c, balanced)]
        ),
    }


def _overlap(one: Candidate, other: Candidate) -> bool:
    a, b = one.measurements.latency, other.measurements.latency
    return a.low_ms <= b.high_ms and b.low_ms <= a.high_ms


def _best_of_tie(tied: Sequence[Candidate]) -> Winner:
    first, *rest = sorted(tied, key=lambda c: (c.memory, c.rank, c.latency))
    return Winner(first, tuple(rest))
