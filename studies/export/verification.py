"""What an exported file claims, and whether measuring again bears it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from objectives.schema.evaluation import Evaluation, Latency, Outcome
from objectives.schema.limits import Limits
from studies.export.document import Export, ExportedChoice, ExportedWorkload
from studies.numerics.interval import Interval
from studies.study.finalists import FinalistTimings
from studies.study.verdicts import MARGIN, Verdict
from variants.configuration import Configuration

# Latencies that the host binds differ by as much from one process to the next.
HOST_MARGIN = 0.15
TELLING = 1.25  # the ends of an interval so near to each other tell something
MEMORY_MARGIN = 1e-3  # the allocator is exact; another version of it may round otherwise


@dataclass(frozen=True, slots=True)
class Claim:
    """One number of one exported choice, as it was and as it is."""

    what: str
    old: Interval
    new: Interval | None  # None: it could not be measured again
    broken: str = ""  # why it no longer holds; empty where it does
    unclear: str = ""  # why nothing can be said: measured again, it may be told


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
    found = dict(workload.chosen)
    place = document.workloads.index(workload)
    for name in document.single:
        choice = document.of_single(name)[place]
        if choice is not None:
            found[f"single {name}"] = choice
    return found


def _configured(workload: ExportedWorkload, choice: ExportedChoice) -> Configuration:
    return Configuration(workload=workload.workload, variant=choice.variant)


def configurations_of(
    workload: ExportedWorkload, choices: Mapping[str, ExportedChoice]
) -> tuple[Configuration, ...]:
    """Return what has to be measured for a workload's claims: the default first, if it ran."""
    chosen = [_configured(workload, choice) for choice in choices.values()]
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
        names.setdefault(_configured(workload, choice), []).append(name)
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
            claims.insert(0, _speed(choice, again, turns))
        checked.append(CheckedConfiguration(tuple(of), configuration, tuple(claims)))
    return checked


def unclear_of(checked: Sequence[CheckedConfiguration]) -> list[Configuration]:
    """Return the configurations of which a claim is unclear."""
    return [one.configuration for one in checked if any(c.unclear for c in one.claims)]


def narrower(turns: FinalistTimings, again: FinalistTimings) -> FinalistTimings:
    """Return timings in turns, with those of `again` where their interval is the narrower one."""
    best = {one.variant: one for one in turns.finalists}
    for one in again.finalists:
        known = best.get(one.variant)
        if known is None or _width(one.latency) < _width(known.latency):
            best[one.variant] = one
    missing = {key: why for key, why in turns.missing.items() if key not in best}
    return turns.model_copy(update={"finalists": tuple(best.values()), "missing": missing})


def _width(verdict: Verdict) -> float:
    return verdict.high / verdict.low


def _speed(choice: ExportedChoice, again: Evaluation, turns: FinalistTimings) -> Claim:
    """Return the claim on how many times as fast as the default it is."""
    what = "times as fast as the default"
    old = Interval(choice.speedup, choice.speedup_low, choice.speedup_high)
    if again.outcome is not Outcome.MEASURED:
        return _failed(what, old, again)
    finalist = turns.of(choice.variant.key)
    if finalist is None:
        why = turns.missing.get(choice.variant.key, "it was not timed")
        # Not a claim that fails: nothing was found against it.
        return Claim(f"{what} (not checked: {why})", old, None)
    verdict = finalist.latency
    new = Interval(1 / verdict.ratio, 1 / verdict.high, 1 / verdict.low)
    return _judged(what, old, new, choice)


def _latency_claim(choice: ExportedChoice, again: Evaluation) -> Claim:
    """Return the claim on latency itself, where the default failed and nothing is its multiple."""
    what, old = "latency ms", _interval(choice.measurements.latency)
    latency = _latency(again)
    if again.outcome is not Outcome.MEASURED or latency is None:
        return _failed(what, old, again)
    return _judged(what, old, _interval(latency), choice, less=True)


def _judged(
    what: str, old: Interval, new: Interval, choice: ExportedChoice, *, less: bool = False
) -> Claim:
    """Compare two intervals of a number of which more is better, or `less`.

    Broken where the whole new interval is worse than the old one by more than the margin: what
    noise and the choice of a lucky trial explain is no broken claim. It holds where none of it is,
    or where the number itself is not and its interval is narrow. Otherwise nothing can be said.
    """
    margin = 1 + (MARGIN if choice.measurements.latency.bound == "gpu" else HOST_MARGIN)
    # From here on, more is worse: the old number in the worst case, and the new one in shares of
    # it.
    if less:
        value, low, high = (each / old.high for each in (new.value, new.low, new.high))
    else:
        value, low, high = (old.low / each for each in (new.value, new.high, new.low))
    if low > margin:
        worse = f"{low - 1:.0%} slower than claimed, at least"
        return Claim(what, old, new, broken=worse)
    if high <= margin or (value <= margin and high / low <= TELLING):
        return Claim(what, old, new)
    between = f"between {1 / high:.2g} and {1 / low:.2g} times the speed claimed"
    return Claim(what, old, new, unclear=between)


def _failed(what: str, old: Interval, again: Evaluation) -> Claim:
    """Return the claim on what was not measured again: THROTTLED is the machine's fault."""
    why = f"{again.outcome.value}: {again.reason}"
    if again.outcome is Outcome.THROTTLED:
        return Claim(what, old, None, unclear=why)
    return Claim(what, old, None, broken=why)


def _interval(latency: Latency) -> Interval:
    return Interval(latency.latency_ms, latency.low_ms, latency.high_ms)


def _latency(evaluation: Evaluation) -> Latency | None:
    return None if evaluation.measurements is None else evaluation.measurements.latency


def _memory(choice: ExportedChoice, again: Evaluation) -> Claim:
    what, old = "peak MiB", choice.measurements.memory.peak_mib
    new = again.peak_memory_mib
    if new is None:
        return _failed(what, _exact(old), again)
    grown = new > old * (1 + MEMORY_MARGIN)
    broken = f"grown by {new / old - 1:.1%}" if grown else ""
    return Claim(what, _exact(old), _exact(new), broken)


def _error(choice: ExportedChoice, again: Evaluation, max_error: float) -> Claim:
    what, old = "relative error", choice.measurements.relative_error
    if again.measurements is None:
        return _failed(what, _exact(old), again)
    new = again.measurements.relative_error
    broken = ""
    if again.outcome is not Outcome.MEASURED:
        broken = f"{again.outcome.value}: {again.reason}"
    elif new > max_error:
        broken = f"above {max_error:g}"
    return Claim(what, _exact(old), _exact(new), broken)


def _exact(value: float) -> Interval:
    return Interval(value, value, value)
