"""The finalists of a workload: timed again in turns, so that the best of many is not mere luck."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median

import optuna
from pydantic import BaseModel, ConfigDict

from objectives.schema.comparison import Comparison, Retimed
from objectives.schema.evaluation import Measured
from studies.study.attributes import FINALS
from studies.study.snapshot import StudyAttributes
from studies.study.verdicts import MARGIN, Verdict, Word, judge_across, judge_rounds
from variants.workload import Workload


class Finalist(BaseModel):
    """One configuration, timed again in turns with the others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: str  # its key
    # The reference's median of the rounds, times the ratio of the verdict: what is read beside
    # each other divides into that ratio, and groups that were timed apart share one scale.
    latency_ms: Measured
    gpu_ms: Measured | None  # None on CPU
    host_ms: Measured
    rounds: int
    latency: Verdict  # against the reference
    gpu: Verdict | None  # the same for GPU time alone
    same_as: tuple[str, ...]  # keys of finalists that are as fast within the margin
    unclear_against: tuple[str, ...]  # keys of finalists that could not be told from it


class FinalistTimings(BaseModel):
    """The finalists of one workload, and those that could not be timed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: str  # key of the variant that all were timed against: the default if it ran
    after_trial: int  # the newest trial that could be among them; -1 where there was none
    margin: float = MARGIN
    finalists: tuple[Finalist, ...]
    missing: dict[str, str]  # reason by variant key
    seconds: float

    def of(self, variant: str) -> Finalist | None:
        """Return the finalist of a variant key."""
        return next((one for one in self.finalists if one.variant == variant), None)


@dataclass(frozen=True, slots=True)
class _Timed:
    retimed: Retimed
    reference: Retimed  # of its group
    group: int

    @property
    def key(self) -> str:
        return self.retimed.configuration.variant.key


def judge_finalists(
    comparison: Comparison, *, reference: str, after_trial: int
) -> FinalistTimings:
    """Return the timings of finalists, and the verdict on each against the reference."""
    timed = list(_timed(comparison))
    ties: dict[tuple[str, str], Word] = {}
    for one, other in itertools.combinations(timed, 2):
        verdict = _latency_verdict(one, other)
        # Unclear is no tie where all of a few rounds say the same.
        if verdict.word in ("same", "unclear") and verdict.may_be_equal:
            ties[one.key, other.key] = ties[other.key, one.key] = verdict.word
    return FinalistTimings(
        reference=reference,
        after_trial=after_trial,
        finalists=tuple(_finalist(one, ties, timed[0].retimed) for one in timed),
        missing={key.rpartition(" ")[2]: reason for key, reason in comparison.missing.items()},
        seconds=comparison.seconds,
    )


def _timed(comparison: Comparison) -> Iterator[_Timed]:
    """Yield the reference once, and everything else with the reference of its group."""
    for number, group in enumerate(comparison.groups):
        reference, *others = group
        if number == 0:
            yield _Timed(reference, reference, number)
        yield from (_Timed(other, reference, number) for other in others)


def _finalist(one: _Timed, ties: Mapping[tuple[str, str], Word], reference: Retimed) -> Finalist:
    against = {other: word for (mine, other), word in ties.items() if mine == one.key}
    gpu_ms, host_ms = one.retimed.gpu_ms, one.retimed.host_ms
    latency = judge_rounds(one.retimed.latency_ms, one.reference.latency_ms)
    latency_ms = latency.ratio * median(reference.latency_ms)
    scale = latency_ms / median(one.retimed.latency_ms)
    return Finalist(
        variant=one.key,
        latency_ms=latency_ms,
        gpu_ms=scale * median(gpu_ms) if gpu_ms else None,
        host_ms=scale * median(host_ms),
        rounds=len(host_ms),
        latency=latency,
        gpu=judge_rounds(gpu_ms, one.reference.gpu_ms) if gpu_ms else None,
        same_as=tuple(other for other, word in against.items() if word == "same"),
        unclear_against=tuple(other for other, word in against.items() if word == "unclear"),
    )


def _latency_verdict(one: _Timed, other: _Timed) -> Verdict:
    if one.group == other.group:
        return judge_rounds(one.retimed.latency_ms, other.retimed.latency_ms)
    return judge_across(
        one.retimed.latency_ms,
        one.reference.latency_ms,
        other.retimed.latency_ms,
        other.reference.latency_ms,
    )


def set_finalist_timings(study: optuna.Study, workload: Workload, finals: FinalistTimings) -> None:
    """Store the verdicts on a workload's finalists, in place of earlier ones."""
    study.set_user_attr(FINALS + workload.key, finals.model_dump(mode="json"))


def finalist_timings_of(study: StudyAttributes, workload: Workload) -> FinalistTimings | None:
    """Return the verdicts on a workload's finalists, if they were timed again."""
    stored = study.user_attrs.get(FINALS + workload.key)
    return None if stored is None else FinalistTimings.model_validate(stored)
