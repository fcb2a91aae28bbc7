"""Fronts and winners of one workload: which configurations are worth choosing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from objectives.schema.evaluation import Evaluation
from objectives.schema.limits import Limits
from studies.results.candidate import Candidate, Tie, tie
from studies.study.baseline import WorkloadBaseline
from studies.study.finalists import FinalistTimings
from variants.workload import Workload

_MORE_EXACT = 2.0  # times a smaller error; what is nearer to another one is about equal
_SAME_MEMORY = 1e-3  # the same to whoever has to choose, as a share
_AS_SHOWN = 1e-3  # latencies so near to each other are printed alike
MOST_FINALISTS = 8  # besides the default; they have to be built and timed again
Preference = Literal["lowest_latency", "lowest_memory", "balanced"]
PREFERENCES: tuple[Preference, ...] = ("lowest_latency", "lowest_memory", "balanced")


@dataclass(frozen=True, slots=True)
class Winner:
    """The candidate of one choice, and what cannot be told from it by latency."""

    candidate: Candidate
    ties: tuple[Candidate, ...]  # by rising latency
    clear: bool = True  # False: others may be as fast, and no number decides

    @property
    def less_exact(self) -> tuple[Candidate, ...]:
        """Ties that need the same time and memory, and have a larger error."""
        won = self.candidate
        return tuple(
            one
            for one in self.ties
            if one.memory == won.memory and one.error > _MORE_EXACT * won.error
        )


@dataclass(frozen=True, slots=True)
class WorkloadResult:
    """What a study found for one workload: its default, its front and its winners."""

    workload: Workload
    default: Evaluation  # with the latency of the turns, where it was timed in turns
    baseline: WorkloadBaseline  # the same numbers
    measured: tuple[Candidate, ...]  # the default among them, if it was
    front: tuple[Candidate, ...]  # by rising memory
    winners: dict[Preference, Winner]  # empty when nothing was measured
    # The same among those within `Limits().max_error`, where a study accepts larger errors.
    strict_winners: dict[Preference, Winner]
    finals: FinalistTimings | None = None  # None until the finalists were timed again

    def latency_ratio(self, candidate: Candidate) -> float:
        """Return a candidate's latency as a share of the default's, or of its roofline."""
        return candidate.latency / self.baseline.latency_ms

    def memory_ratio(self, candidate: Candidate) -> float:
        """Return a candidate's peak memory as a share of the default's, or of its roofline."""
        return candidate.memory / self.baseline.peak_memory_mib

    @property
    def timed_in_turns(self) -> bool:
        """Tell whether all that was chosen was timed in turns, as far as it can be."""
        missing = self.finals.missing if self.finals else {}
        chosen = [winner.candidate for winner in self.winners.values()]
        return all(
            one.turns is not None or one.number is None or one.key in missing for one in chosen
        )


def front(measured: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Return the non-dominated ones of those who can win, by rising memory.

    Of those that need the same memory and are proven to take the same time, the most exact one
    stands for all, and of about equal errors the simplest.
    """
    pool = _competing(measured)
    by_memory: dict[float, list[Candidate]] = {}
    for candidate in pool:
        by_memory.setdefault(candidate.memory, []).append(candidate)
    best: list[Candidate] = []
    for memory in sorted(by_memory):
        group = by_memory[memory]
        fastest = min(group, key=lambda c: (c.latency, c.rank))
        if not best or fastest.latency < best[-1].latency:
            limit = best[-1].latency if best else math.inf
            best.append(_standing_for(fastest, [c for c in group if c.latency < limit]))
    return tuple(best)


def strict(measured: Sequence[Candidate], limits: Limits) -> list[Candidate]:
    """Return those within the usual error where `limits` accepts more; none where it does not."""
    usual = Limits().max_error
    if limits.max_error <= usual:
        return []
    return [c for c in measured if c.measurements.relative_error <= usual]


def winners(measured: Sequence[Candidate], baseline: WorkloadBaseline) -> dict[Preference, Winner]:
    """Choose the lowest latency, the lowest memory and the best balance of both, on the front.

    Balanced is the least geometric mean of the two ratios to the default. What is shown to be
    slower than the default wins neither latency nor balance, as long as the default itself can
    be chosen. Of what is proven to take the same time as the fastest, the one that needs the
    least memory is named (memory is exact); of what is merely unclear, the least number.
    """
    best = front(measured)
    if not best:
        return {}
    pool = _competing(measured)
    no_slower = [c for c in best if not c.loses] or list(best)
    fastest = no_slower[-1]
    named = next(c for c in no_slower if tie(c, fastest) == "same")
    balanced = min(
        no_slower,
        key=lambda c: (c.memory / baseline.peak_memory_mib) * (c.latency / baseline.latency_ms),
    )
    smallest = _fastest_of_about(best)
    least = min(pool, key=lambda c: c.latency)
    shared = [c for c in pool if tie(c, least) or tie(c, named)]
    return {
        "lowest_latency": _won(named, shared, least),
        "lowest_memory": _won(smallest, [c for c in pool if c.memory == smallest.memory]),
        "balanced": _won(balanced, [c for c in pool if c.memory == balanced.memory]),
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


def _fastest_of_about(best: Sequence[Candidate]) -> Candidate:
    """Return the fastest of a front of those that need about the least memory.

    Less of it than anyone can use is not bought with time.
    """
    return [c for c in best if c.memory <= best[0].memory * (1 + _SAME_MEMORY)][-1]


def _competing(measured: Sequence[Candidate]) -> list[Candidate]:
    """Return those who can win once finalists were timed again.

    They themselves, and whoever none of them dominates by the numbers of their trials: what came
    later, had no room beside the default, or is left where finalists are not admitted. Among
    others, the luckiest of many noisy trials would win against honest times.
    """
    retimed = [(c.memory, c.trial_ms) for c in measured if c.trial_ms is not None]
    return [
        candidate
        for candidate in measured
        if candidate.turns is not None
        or not any(
            memory <= candidate.memory and trial_ms <= candidate.latency
            for memory, trial_ms in retimed
        )
    ]


def _standing_for(fastest: Candidate, group: Sequence[Candidate]) -> Candidate:
    """Return the one of a group of equal memory that stands for what is as fast as its fastest."""
    same = [c for c in group if tie(c, fastest) == "same" and (fastest.loses or not c.loses)]
    least = min(c.error for c in same)
    exact = [c for c in same if c.error <= _MORE_EXACT * least]
    return min(exact, key=lambda c: (c.rank, c.latency))


def _won(named: Candidate, among: Sequence[Candidate], least: Candidate | None = None) -> Winner:
    """Return a winner with what ties with it; `least` has the least latency of all who can win."""
    found = [(c, _tied(c, named, least)) for c in among if c is not named]
    ties = sorted((c for c, kind in found if kind), key=lambda c: (c.latency, c.rank))
    is_least = least is None or named.latency <= least.latency * (1 + _AS_SHOWN)
    return Winner(named, tuple(ties), is_least and all(kind != "unclear" for _, kind in found))


def _tied(one: Candidate, named: Candidate, least: Candidate | None) -> Tie | None:
    """Return how one ties with who is named, or with the least latency."""
    return tie(one, named) or (None if least is None else tie(one, least))
