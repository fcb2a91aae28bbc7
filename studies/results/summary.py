"""What a study found, in one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from objectives.schema.evaluation import Outcome
from objectives.schema.limits import Limits
from studies.results.candidate import Candidate
from studies.results.front import Preference, Winner, WorkloadResult
from studies.results.labels import (
    factor,
    first_of,
    gain,
    interval,
    mebibytes,
    milliseconds,
    variant_label,
    workload_label,
)
from studies.results.results import Results
from studies.study.verdicts import MARGIN

_SOME = 2  # names in a line
_NONE = 1e-12  # an error that is none


@dataclass(frozen=True, slots=True)
class _Balanced:
    """A workload and its balanced winner."""

    result: WorkloadResult
    winner: Candidate

    @property
    def latency(self) -> float:
        return self.result.latency_ratio(self.winner)

    @property
    def memory(self) -> float:
        return self.result.memory_ratio(self.winner)


def summary(results: Results) -> str:
    """Return the verdict in one sentence: the balanced winners against the default.

    Where a study accepts larger errors than usual, a second sentence tells of those within it.
    """
    found = [_Balanced(r, r.winners["balanced"].candidate) for r in results.workloads if r.winners]
    if not found:
        verdict = f"none of {len(results.trials)} tried configurations could be used"
    elif len(results.workloads) == 1:
        verdict = _of_one(found[0], set(results.plan.space.searched))
    else:
        verdict = _of_several(found, results)
    return f"On {results.environment.device.name}, {verdict}.{_strict(results)}"


def notes(result: WorkloadResult) -> Iterator[str]:
    """Yield what must be known beside the numbers of a workload."""
    default = result.default
    if default.outcome is not Outcome.MEASURED:
        yield f"the default {default.outcome.value}: {default.reason}"
    if not result.baseline.measured:
        yield "factors are to the default's roofline"
    if not result.winners:
        yield "nothing was measured"
    for preference, winner in result.winners.items():
        yield from _shared(preference, winner)
    if "balanced" in result.winners and result.winners["balanced"].less_exact:
        who, _ = exactness(result.winners["balanced"])
        yield f"of equal time and memory the smaller error decides: {who}"
    for variant, reason in (result.finals.missing if result.finals else {}).items():
        yield f"{variant} was not timed in turns: {reason}"


def gains(result: WorkloadResult) -> Iterator[str]:
    """Yield how much faster than the default the lowest latency is, with its interval."""
    winner = result.winners.get("lowest_latency")
    if winner is None or winner.candidate.number is None:
        return
    verdict = winner.candidate.verdict
    if verdict is not None:
        turns = winner.candidate.turns
        how = "in single trials" if turns is None else f"in {turns.rounds} turns"
        by_gpu = turns.gpu if turns is not None else None
        alone = "" if by_gpu is None else f"; by GPU time alone {interval(by_gpu)}"
        yield f"against the default, {how}, with 95 % intervals: {interval(verdict)}{alone}"


def some_of(candidates: Sequence[Candidate]) -> str:
    """Return the names of the first ones, and how many more there are."""
    names = [variant_label(one.evaluation.configuration.variant) for one in candidates]
    return first_of(names, _SOME)


def exactness(winner: Winner) -> tuple[str, str]:
    """Return what a winner is named before, as its error is smaller, and how much that is.

    Empty where it is not.
    """
    if not winner.less_exact:
        return "", ""
    rival, won = winner.less_exact[0], winner.candidate
    names = [variant_label(one.evaluation.configuration.variant) for one in (won, rival)]
    smaller = "far" if won.error < _NONE else f"{rival.error / won.error:.0f} times"
    return f"{names[0]}, not {names[1]}", f"whose error is {smaller} larger"


def _shared(preference: Preference, winner: Winner) -> Iterator[str]:
    """Say who is as good as a winner, as far as can be told, and why this one is named."""
    name = preference.replace("_", " ")
    if preference == "lowest_latency" and not winner.clear:
        yield f"no clear winner in latency: shared with {some_of(winner.ties)}"
        return
    exact = {one.key for one in winner.less_exact}
    others = [one for one in winner.ties if one.key not in exact]
    if others and winner.clear:
        yield f"{name}: as fast within {MARGIN:.0%}: {some_of(others)}"
    elif others:
        yield f"{name}: of as little memory, and maybe as fast: {some_of(others)}"


def _strict(results: Results) -> str:
    found = [
        _Balanced(r, r.strict_winners["balanced"].candidate)
        for r in results.workloads
        if r.strict_winners and r.baseline.measured
    ]
    if not found:
        return ""
    lacking = len(results.workloads) - len(found)
    but = f" ({lacking} workloads have none)" if lacking else ""
    return f" Within an error of {Limits().max_error:g}{but}: {_gain(found)}."


def _gain(found: Sequence[_Balanced]) -> str:
    latency, memory = [one.latency for one in found], [one.memory for one in found]
    if len(found) == 1:
        return (
            f"{gain(latency[0], 'faster', 'slower')} and "
            f"{gain(memory[0], 'smaller in memory', 'larger in memory')}"
        )
    return (
        f"{gain(_mean(latency), 'faster', 'slower')} ({_range(latency, 'slower')}) and "
        f"{gain(_mean(memory), 'smaller in memory', 'larger in memory')} "
        f"({_range(memory, 'larger')})"
    )


def _of_one(found: _Balanced, varying: set[str]) -> str:
    result, winner, baseline = found.result, found.winner, found.result.baseline
    what = workload_label(result.workload, varying)
    numbers = (
        f"{milliseconds(winner.latency)} ms and {mebibytes(winner.memory)} MiB, "
        f"relative error {winner.measurements.relative_error:.2g}"
    )
    if winner.number is None:
        return f"nothing that was tried balances {what} better than PyTorch's default ({numbers})"
    name = variant_label(winner.evaluation.configuration.variant)
    against = "PyTorch's default" if baseline.measured else "the roofline of PyTorch's default"
    stalls = result.default.outcome is Outcome.STALLS
    also = ", which also stalls at each new length" if stalls else ""
    return f"{what} by {name}, against {against}{also}, is {_gain([found])} ({numbers})"


def _of_several(found: Sequence[_Balanced], results: Results) -> str:
    count = len(results.workloads)
    compared = [one for one in found if one.result.baseline.measured]
    error = max(one.winner.measurements.relative_error for one in found)
    parts = []
    kept = sum(one.winner.number is None for one in found)
    if kept == count:
        return (
            f"nothing that was tried balances any of {count} workloads better than PyTorch's "
            "default"
        )
    if compared:
        parts.append(
            f"the balanced winners of {_some(compared, count)} workloads are, against PyTorch's "
            f"default and in the geometric mean, {_gain(compared)}, at relative errors up to "
            f"{error:.2g}"
        )
    if kept:
        parts.append(f"in {kept} the default itself is the best balance")
    if stalls := sum(r.default.outcome is Outcome.STALLS for r in results.workloads):
        parts.append(f"in {stalls} the default stalls at each new length")
    if failed := len(found) - len(compared):
        parts.append(f"in {failed} the default failed")
    if lacking := count - len(found):
        parts.append(f"in {lacking} nothing could be used")
    return "; ".join(parts)


def _some(compared: Sequence[_Balanced], count: int) -> str:
    return f"all {count}" if len(compared) == count else f"{len(compared)} of {count}"


def _mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _range(ratios: Sequence[float], worse: str) -> str:
    """Return `1.00× to 9.30×`, from the least gain to the largest."""
    return f"{factor(max(ratios), worse)} to {factor(min(ratios), worse)}"
