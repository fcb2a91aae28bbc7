"""What must be known beside a study's numbers, summed up over its workloads, a line each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from objectives.schema.evaluation import Outcome
from studies.results.front import WorkloadResult
from studies.results.labels import times
from studies.results.results import Results
from studies.results.summary import exactness, some_of
from studies.study.anchor import AnchorPoint, DriftMarks
from studies.study.verdicts import MARGIN


def facts(results: Results) -> Iterator[str]:
    """Yield what a reader has to know before the numbers are used, most important first."""
    yield from _drift(results)
    yield from _turns(results.workloads)
    yield from _defaults(results.workloads)
    yield from _clear(results.workloads)
    yield from _errors(results.workloads)
    yield from _unusual(results)


def facts_beside_notes(results: Results) -> Iterator[str]:
    """Yield those that are not a workload's own notes again, where there is only one."""
    if len(results.workloads) > 1:
        yield from facts(results)
        return
    yield from _drift(results)
    yield from _turns(results.workloads)
    yield from _unusual(results)


def _in(number: int, count: int) -> str:
    """Return `in 3 of 36`, or nothing where there is only one workload."""
    return f" in {number} of {count}" if count > 1 else ""


def _turns(workloads: Sequence[WorkloadResult]) -> Iterator[str]:
    """Say where winners were never timed beside the default."""
    left = sum(not result.timed_in_turns for result in workloads)
    if left:
        yield (
            f"finalists are missing{_in(left, len(workloads))}: these numbers are single trials; "
            "`run` times them in turns at its end"
        )


def _drift(results: Results) -> Iterator[str]:
    """Say that the machine changed its speed, and what to do."""
    drifts = results.drifts
    if drifts:
        marks = DriftMarks(results.anchors, drifts)
        marked = sum(marks.at(one.number, one.measured_on) is not None for one in results.trials)
        yield (
            "the machine's speed changed: one and the same configuration took up to "
            f"{times(_spread(results.anchors))} as long at one time as at another. {marked} of "
            f"{len(results.trials)} trials may be off (`drift` in `table`): stop what else runs "
            "here, and search again"
        )
    failed = [point for point in results.anchors if point.value_ms is None]
    if failed:
        yield (
            f"what watches for drift failed {len(failed)} times, so a change of the machine's "
            f"speed goes unseen: {failed[0].reason}"
        )


def _spread(points: Sequence[AnchorPoint]) -> float:
    """Return the largest ratio of two anchors of one device."""
    by_device: dict[str, list[float]] = {}
    for point in points:
        if point.value_ms is not None:
            by_device.setdefault(point.measured_on, []).append(point.value_ms)
    return max(max(values) / min(values) for values in by_device.values())


def _defaults(workloads: Sequence[WorkloadResult]) -> Iterator[str]:
    """Say how many defaults stall, and how many did not run."""
    count = len(workloads)
    stalls = [r for r in workloads if r.default.outcome is Outcome.STALLS]
    if stalls:
        found = [r.default.measurements for r in stalls]
        ran = {None if measured is None else measured.backend_ran for measured in found}
        most = max((m.latency.new_length_ms or 0.0 for m in found if m is not None), default=0.0)
        planned = "cuDNN plans each new length, " if ran == {"cudnn"} else ""
        why = f"{planned}up to {most:.0f} ms a new length"
        yield f"{_which(len(stalls), count, 'stalls', 'stall')}: {why}"
    others = Counter(r.default.outcome for r in workloads)
    for outcome in others.keys() - {Outcome.MEASURED, Outcome.STALLS}:
        example = next(r.default.reason for r in workloads if r.default.outcome is outcome)
        was = _which(others[outcome], count, f"was {outcome.value}", f"are {outcome.value}")
        yield f"{was}: {example}"
    roofline = sum(not result.baseline.measured for result in workloads)
    if roofline:
        yield f"gains{_in(roofline, count)} are against the roofline of the default"


def _which(number: int, count: int, one: str, several: str) -> str:
    return f"the default {one}" if count == 1 else f"{number} of {count} defaults {several}"


def _clear(workloads: Sequence[WorkloadResult]) -> Iterator[str]:
    """Say in how many workloads nothing is clearly the fastest."""
    won = [r.winners["lowest_latency"] for r in workloads if r.winners]
    count = len(workloads)
    unclear = [winner for winner in won if not winner.clear]
    shared = [winner for winner in won if winner.clear and winner.ties]
    if unclear:
        others = "others may be as fast (`show --all` lists them)"
        who = others if count > 1 else f"shared with {some_of(unclear[0].ties)}"
        yield f"no clear winner in latency{_in(len(unclear), count)}: {who}"
    doubtful = [
        r
        for r in workloads
        if r.winners
        and (verdict := r.winners["balanced"].candidate.verdict) is not None
        and verdict.word == "unclear"
    ]
    if doubtful:
        yield (
            f"whether the balanced winner is faster than the default is unclear"
            f"{_in(len(doubtful), count)}: the 95 % interval does not tell"
        )
    if shared:
        who = "others" if count > 1 else some_of(shared[0].ties)
        yield f"as fast within {MARGIN:.0%} as the lowest latency{_in(len(shared), count)}: {who}"


def _errors(workloads: Sequence[WorkloadResult]) -> Iterator[str]:
    """Say where the smaller error decided."""
    won = [result.winners["balanced"] for result in workloads if result.winners]
    decided = [winner for winner in won if winner.less_exact]
    if decided:
        yield (
            f"of equal time and memory{_in(len(decided), len(workloads))} the smaller error "
            f"decides: {', '.join(exactness(decided[0]))}"
        )


def _unusual(results: Results) -> Iterator[str]:
    """Say what became of the trials that did not measure."""
    others = {k: n for k, n in results.outcomes.most_common() if k is not Outcome.MEASURED}
    if others:
        parts = ", ".join(f"{count} {outcome.value}" for outcome, count in others.items())
        yield f"of {len(results.trials)} trials {parts}"
    found = [default.measurements for default in results.defaults]
    for unread in {m.conditions.unread for m in found if m is not None and m.conditions} - {""}:
        yield f"clocks could not be read, throttling was not watched for: {unread}"
