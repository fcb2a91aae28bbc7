"""What an exported file claims, and whether measuring again bears it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from objectives.schema.evaluation import Evaluation, Latency, Outcome
from objectives.schema.limits import Limits
from studies.export.document import Export, ExportedChoice, ExportedWorkload
from studies.numerics.interval import Interval
from studies.study.finalists import FinalistTimings
from studies.study.verdicts import MARGIN
from variants.configuration import Configuration

# Latencies that the host binds differ by as much from one process to the next.
HOST_MARGIN = 0.15
MEMORY_MARGIN = 1e-3  # the allocator is exact; another version of it may round otherwise


@dataclass(frozen=True, slots=True)
class Claim:
    """One number of one exported choice, as it was and as it is."""

    what: str
    old: Interval
    new: Interval | None  # None: it could not be measured again
    broken: str  # why it no longer holds; empty where it does


@dataclass(frozen=True, slots=True)
class CheckedConfiguration:
    """One exported configuration, measured again."""

    names: tuple[str, ...]  # of the choices that are this configuration
    configuration: Configuration
    claims: tuple[Claim, ...]


def choices_of(document: Export, workload: ExportedWorkload) -> dict[str, ExportedChoice]:
    """Return all that may be loaded for a workload, by name: its own choices, and the single ones.

    Those are what one choice for all workloads comes to for this one.
    """
    found = dict(workload.choices)
    for name, single in document.single.items():
        for choice in single.choices:
            if choice.configuration.workload == workload.workload:
                found[f"single {name}"] = choice
    return found


def configurations_of(
    workload: ExportedWorkload, choices: Mapping[str, ExportedChoice]
) -> tuple[Configuration, ...]:
    """Return what has to be measured for a workload's claims: the default first, if it ran."""
    chosen = [choice.configuration for choice in choices.values()]
    ran = workload.default.measurements is not None
    return tuple(dict.fromkeys([workload.default.configuration, *chosen] if ran else chosen))


def check(
    workload: ExportedWorkload,
    choices: Mapping[str, ExportedChoice],
    measured: Mapping[Configuration, Evaluation],
    turns: FinalistTimings,
    limits: Limits,
) -> list[CheckedConfiguration]:
    """Compare the choices of a workload with what measuring them again gave."""
    default = workload.default.configuration
    names: dict[Configuration, list[str]] = {}
    for name, choice in choices.items():
        names.setdefault(choice.configuration, []).append(name)
    checked = []
    for configuration, of in names.items():
        choice = choices[of[0]]
        again = measured[configuration]
        strict = any("strict_" in name for name in of)
        max_error = Limits().max_error if strict else limits.max_error
        claims = [_memory(choice, again), _error(choice, again, max_error)]
        if workload.default.measurements is None:
            claims.insert(0, _latency_claim(choice, again))
        elif configuration != default:
            claims.insert(0, _speed(workload, choice, again, turns))
        checked.append(CheckedConfiguration(tuple(of), configuration, tuple(claims)))
    return checked


def _speed(
    workload: ExportedWorkload, choice: ExportedChoice, again: Evaluation, turns: FinalistTimings
) -> Claim:
    """Return the claim on latency as a share of the default's; less is faster.

    Broken where the new interval lies above the old one by more than the margin: what noise and
    the choice of a lucky trial explain is no broken claim.
    """
    what = "latency, share of the default's"
    old = _claimed_ratio(workload, choice)
    if again.outcome is not Outcome.MEASURED:
        return Claim(what, old, None, f"{again.outcome.value}: {again.reason}")
    finalist = turns.of(choice.configuration.variant.key)
    if finalist is None:
        why = turns.missing.get(choice.configuration.variant.key, "it was not timed")
        # Not a claim that fails: nothing was found against it.
        return Claim(f"{what} (not checked: {why})", old, None, "")
    new = Interval(finalist.latency.ratio, finalist.latency.low, finalist.latency.high)
    return Claim(what, old, new, _slower(choice, old, new))


def _latency_claim(choice: ExportedChoice, again: Evaluation) -> Claim:
    """Return the claim on latency itself, where the default failed and nothing is its share."""
    what, old = "latency ms", _interval(choice.measurements.latency)
    latency = _latency(again)
    if again.outcome is not Outcome.MEASURED or latency is None:
        return Claim(what, old, None, f"{again.outcome.value}: {again.reason}")
    new = _interval(latency)
    return Claim(what, old, new, _slower(choice, old, new))


def _slower(choice: ExportedChoice, old: Interval, new: Interval) -> str:
    margin = MARGIN if choice.measurements.latency.bound == "gpu" else HOST_MARGIN
    if new.low <= old.high * (1 + margin):
        return ""
    return f"{new.low / old.high - 1:.0%} above what was claimed, at least"


def _interval(latency: Latency) -> Interval:
    return Interval(latency.latency_ms, latency.low_ms, latency.high_ms)


def _claimed_ratio(workload: ExportedWorkload, choice: ExportedChoice) -> Interval:
    """Return the exported share, from turns with the default where there were such."""
    finals = workload.finals
    if finals is not None and finals.reference == workload.default.configuration.variant.key:
        finalist = finals.of(choice.configuration.variant.key)
        if finalist is not None:
            return Interval(finalist.latency.ratio, finalist.latency.low, finalist.latency.high)
    value = choice.latency_vs_default
    ours = choice.measurements.latency
    low, high = ours.low_ms / ours.latency_ms, ours.high_ms / ours.latency_ms
    default = _latency(workload.default)
    if default is not None:
        low *= default.latency_ms / default.high_ms
        high *= default.latency_ms / default.low_ms
    return Interval(value, value * low, value * high)


def _latency(evaluation: Evaluation) -> Latency | None:
    return None if evaluation.measurements is None else evaluation.measurements.latency


def _memory(choice: ExportedChoice, again: Evaluation) -> Claim:
    what, old = "peak MiB", choice.measurements.memory.peak_mib
    new = again.peak_memory_mib
    if new is None:
        return Claim(what, _exact(old), None, f"{again.outcome.value}: {again.reason}")
    grown = new > old * (1 + MEMORY_MARGIN)
    broken = f"grown by {new / old - 1:.1%}" if grown else ""
    return Claim(what, _exact(old), _exact(new), broken)


def _error(choice: ExportedChoice, again: Evaluation, max_error: float) -> Claim:
    what, old = "relative error", choice.measurements.relative_error
    if again.measurements is None:
        return Claim(what, _exact(old), None, f"{again.outcome.value}: {again.reason}")
    new = again.measurements.relative_error
    broken = ""
    if again.outcome is not Outcome.MEASURED:
        broken = f"{again.outcome.value}: {again.reason}"
    elif new > max_error:
        broken = f"above {max_error:g}"
    return Claim(what, _exact(old), _exact(new), broken)


def _exact(value: float) -> Interval:
    return Interval(value, value, value)
