"""The report's tables: for each workload the default, the front and what was chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from objectives.schema.evaluation import Evaluation, Outcome
from objectives.schema.limits import Limits
from studies.report.bars import Bars, memory_bars, time_bars
from studies.report.shades import shade_of
from studies.results.candidate import Candidate, share_of_roofline
from studies.results.front import PREFERENCES, Preference, Winner, WorkloadResult
from studies.results.labels import (
    choice_name,
    gain,
    mebibytes,
    milliseconds,
    size,
    speed,
    trial_name,
    variant_label,
    workload_label,
)
from studies.results.results import Results
from studies.results.summary import gains, notes
from studies.study.trials import FinishedTrial

_KERNELS = 12  # of one step; a step of many has the attention's among the first


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the report's tables: one configuration of one workload, formatted."""

    chosen: tuple[str, ...]  # as what: default, lowest latency, lowest memory, balanced
    variant: str
    trial: str
    latency: str  # ms
    interval: str  # its 95 % interval, ms
    gpu: str  # ms
    faster: str
    memory: str  # MiB
    smaller: str
    error: str
    roofline: str  # the least time by the study's rates, as a share of GPU time
    outcome: str  # empty when MEASURED


@dataclass(frozen=True, slots=True)
class Headline:
    """What a folded section says of its workload: the balanced winner."""

    variant: str
    faster: str  # `1.75× faster`
    smaller: str
    shade: str  # by gain in latency, as in the map


@dataclass(frozen=True, slots=True)
class WorkloadSection:
    """What the report shows of one workload."""

    place: int
    label: str
    key: str
    headline: Headline | None  # None where nothing was measured
    rows: tuple[Row, ...]  # what was chosen and the front, by rising memory; the default last
    verdict: tuple[Row, ...]  # what was chosen, then the default
    notes: tuple[str, ...]
    missing: tuple[tuple[str, int, str], ...]  # outcome, trials, commonest reason: without numbers
    time: Bars
    memory: Bars
    kernels: tuple[tuple[str, tuple[str, ...], int], ...]  # whose, the first ones, how many more


def workload_sections(results: Results) -> list[WorkloadSection]:
    """Return a section for each workload, in the order of the space."""
    varying = set(results.plan.space.searched)
    by_workload = results.trials_by_workload()
    return [
        _section(
            place,
            workload_label(result.workload, varying),
            result,
            by_workload.get(result.workload.key, []),
        )
        for place, result in enumerate(results.workloads)
    ]


def _section(
    place: int, label: str, result: WorkloadResult, trials: Sequence[FinishedTrial]
) -> WorkloadSection:
    chosen = _chosen(result)
    shown = {c.number: c for c in (*result.front, *chosen) if c.number is not None}
    default = _row(result.default, None, ("default", *_tags(None, result)), result)
    rows = [
        _row(c.evaluation, c.number, _tags(c.number, result), result)
        for c in sorted(shown.values(), key=lambda c: (c.memory, c.latency))
    ]
    winners = [c for c in chosen if c.number is not None]
    picked = [("default", result.default)] + [
        (", ".join(_tags(c.number, result)), c.evaluation) for c in winners
    ]
    with_numbers = [
        (name, evaluation, evaluation.measurements)
        for name, evaluation in picked
        if evaluation.measurements is not None
    ]
    return WorkloadSection(
        place=place,
        label=label,
        key=result.workload.key,
        headline=_headline(result),
        rows=(*rows, default),
        verdict=(
            *(_row(c.evaluation, c.number, _tags(c.number, result), result) for c in winners),
            default,
        ),
        notes=(*gains(result), *notes(result)),
        missing=_missing(trials),
        time=time_bars(with_numbers),
        memory=memory_bars(with_numbers),
        kernels=tuple(
            (
                f"{name}: {variant_label(evaluation.configuration.variant)}",
                measured.kernels[:_KERNELS],
                max(0, len(measured.kernels) - _KERNELS),
            )
            for name, evaluation, measured in with_numbers
            if measured.kernels
        ),
    )


def _headline(result: WorkloadResult) -> Headline | None:
    if not result.winners:
        return None
    winner = result.winners["balanced"].candidate
    latency = result.latency_ratio(winner)
    variant = winner.evaluation.configuration.variant
    return Headline(
        variant="the default" if winner.number is None else variant_label(variant),
        faster=gain(latency, "faster", "slower"),
        smaller=gain(winner.memory / result.baseline.peak_memory_mib, "smaller", "larger"),
        shade=shade_of(latency),
    )


def _chosen(result: WorkloadResult) -> list[Candidate]:
    """Return each winner once, the lowest latency first; those of small errors come last."""
    found: dict[int | None, Candidate] = {}
    for winners in (result.winners, result.strict_winners):
        for preference in PREFERENCES:
            if preference in winners:
                found.setdefault(
                    winners[preference].candidate.number, winners[preference].candidate
                )
    return list(found.values())


def _words(choice: Preference) -> str:
    return choice.replace("_", " ")


def _tags(number: int | None, result: WorkloadResult) -> tuple[str, ...]:
    """Return what a configuration was chosen as, as balanced."""
    tags = [
        _name(choice, result.winners[choice])
        for choice in PREFERENCES
        if choice in result.winners and result.winners[choice].candidate.number == number
    ]
    within = [
        name
        for choice in PREFERENCES
        if choice in result.strict_winners
        and result.strict_winners[choice].candidate.number == number
        and (name := _name(choice, result.strict_winners[choice])) not in tags
    ]
    if within:
        tags.append(f"within error {Limits().max_error:g}: {', '.join(within)}")
    return tuple(tags)


def _name(choice: Preference, winner: Winner) -> str:
    return choice_name(choice, clear=winner.clear)


def _row(
    evaluation: Evaluation,
    number: int | None,
    chosen: tuple[str, ...],
    result: WorkloadResult,
) -> Row:
    measured, baseline = evaluation.measurements, result.baseline
    name = variant_label(
        evaluation.configuration.variant, None if measured is None else measured.backend_ran
    )
    trial = trial_name(number)
    outcome = "" if evaluation.outcome is Outcome.MEASURED else evaluation.outcome.value
    if measured is None:
        return Row(chosen, name, trial, "–", "", "", "", "–", "", "–", "", outcome)
    latency, memory = measured.latency, measured.memory.peak_mib
    share = share_of_roofline(measured)
    return Row(
        chosen=chosen,
        variant=name,
        trial=trial,
        latency=milliseconds(latency.latency_ms),
        interval=""
        if latency.low_ms == latency.high_ms
        else f"{milliseconds(latency.low_ms)} to {milliseconds(latency.high_ms)}",
        gpu="" if latency.gpu is None else milliseconds(latency.gpu.value),
        faster=speed(latency.latency_ms / baseline.latency_ms),
        memory=mebibytes(memory),
        smaller=size(memory / baseline.peak_memory_mib),
        error=f"{measured.relative_error:.1e}",
        roofline="" if share is None else f"{100 * share:.2g} %",
        outcome=outcome,
    )


def _missing(trials: Sequence[FinishedTrial]) -> tuple[tuple[str, int, str], ...]:
    counts: Counter[Outcome] = Counter()
    reasons: dict[Outcome, Counter[str]] = {}
    for trial in trials:
        evaluation = trial.evaluation
        if evaluation.measurements is None:
            counts[evaluation.outcome] += 1
            reasons.setdefault(evaluation.outcome, Counter())[evaluation.reason] += 1
    return tuple(
        (outcome.value, count, reasons[outcome].most_common(1)[0][0])
        for outcome, count in counts.most_common()
    )
