"""A configuration that may be chosen, with its numbers: the one source that every output shows.

Where its workload's finalists were timed in turns and it was among them, its latency, interval,
ratio to the default and verdict are those of the turns; else all are those of its trial.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from objectives.schema.evaluation import Evaluation, Latency, Measurements, Outcome
from studies.study.finalists import Finalist, FinalistTimings
from studies.study.verdicts import Verdict, word_of

Tie = Literal["same", "unclear"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration that was measured, accurate and usable."""

    number: int | None  # of its trial; None for the default
    evaluation: Evaluation  # with the latency of the turns, where it was timed in turns
    turns: Finalist | None = None
    trial_ms: float | None = None  # latency of its trial, where `evaluation` has that of the turns
    default: Latency | None = None  # of its workload's default; None where that failed

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
    def error(self) -> float:
        """Relative error."""
        return self.measurements.relative_error

    @property
    def key(self) -> str:
        """Identity within its workload."""
        return self.evaluation.configuration.variant.key

    @property
    def rank(self) -> tuple[int, ...]:
        """From simple to elaborate."""
        return self.evaluation.configuration.variant.rank

    @property
    def verdict(self) -> Verdict | None:
        """Its latency against the default's; None where that failed."""
        if self.default is None:
            return None
        if self.number is None:
            return Verdict(word="same", ratio=1.0, low=1.0, high=1.0)
        return _in_turns_or(self.turns, self.measurements.latency, self.default)

    @property
    def loses(self) -> bool:
        """Tell whether the numbers show it to be slower than the default."""
        if self.default is None or self.latency <= self.default.latency_ms:
            return False
        verdict = self.verdict
        return verdict is not None and verdict.word != "same"


def candidates(
    evaluations: Iterable[tuple[int | None, Evaluation]],
    finals: FinalistTimings | None = None,
    default: Evaluation | None = None,
) -> list[Candidate]:
    """Return the MEASURED ones of (trial number, evaluation).

    Args:
        evaluations: As their trials measured them.
        finals: What was timed in turns in their workload.
        default: Of their workload, as `in_turns` gives it.
    """
    against = None
    if default is not None and default.measurements is not None:
        against = default.measurements.latency
    found = []
    for number, evaluation in evaluations:
        if evaluation.outcome is not Outcome.MEASURED:
            continue
        key = evaluation.configuration.variant.key
        turns = None if finals is None else finals.of(key)
        trial_ms = None if turns is None else evaluation.latency_ms
        shown = in_turns(evaluation, finals)
        found.append(Candidate(number, shown, turns, trial_ms, against))
    return found


def in_turns(evaluation: Evaluation, finals: FinalistTimings | None) -> Evaluation:
    """Return an evaluation with the latency of the turns, or as it is if it was not in them."""
    measured = evaluation.measurements
    turns = None if finals is None else finals.of(evaluation.configuration.variant.key)
    if measured is None or turns is None:
        return evaluation
    was, verdict = measured.latency, turns.latency
    gpu = was.gpu
    if gpu is not None and turns.gpu_ms is not None:
        gpu = gpu.times(turns.gpu_ms / gpu.value)
    host = was.host.times(turns.host_ms / was.host.value)
    bound = "gpu" if gpu is not None and gpu.value >= host.value else "host"
    latency = was.model_copy(
        update={
            "latency_ms": turns.latency_ms,
            "low_ms": turns.latency_ms * verdict.low / verdict.ratio,
            "high_ms": turns.latency_ms * verdict.high / verdict.ratio,
            "bound": bound,
            "gpu": gpu,
            "host": host,
        }
    )
    roofline = measured.roofline
    if roofline is not None:
        share = roofline.latency_ms / (gpu or host).value
        roofline = roofline.model_copy(update={"latency_share": share})
    placed = measured.model_copy(update={"latency": latency, "roofline": roofline})
    return evaluation.model_copy(update={"measurements": placed})


def tie(one: Candidate, other: Candidate) -> Tie | None:
    """Return why two latencies cannot be told apart: the same, or unclear; None where they can.

    Finalists are told apart by their verdicts in turns, others by the intervals of their trials.
    """
    if one is other:
        return "same"
    if one.turns is not None and other.turns is not None:
        if other.key in one.turns.same_as:
            return "same"
        return "unclear" if other.key in one.turns.unclear_against else None
    verdict = _of_trials(one.measurements.latency, other.measurements.latency)
    if verdict.word == "same":
        return "same"
    return "unclear" if verdict.low <= 1 <= verdict.high else None


def share_of_roofline(measured: Measurements) -> float | None:
    """Return the least time that the configuration needs, as a share of what it takes.

    By the rates of the study: those that were measured on the device, else its datasheet's. None
    where only those of a typical device are known, which say nothing of this one.
    """
    roofline = measured.roofline
    return None if roofline is None or roofline.rates == "typical" else roofline.latency_share


def _in_turns_or(turns: Finalist | None, ours: Latency, default: Latency) -> Verdict:
    return turns.latency if turns is not None else _of_trials(ours, default)


def _of_trials(ours: Latency, theirs: Latency) -> Verdict:
    """Return the verdict of two intervals of times that were not taken together."""
    ratio = ours.latency_ms / theirs.latency_ms
    low = min(ratio, ours.low_ms / theirs.high_ms)
    high = max(ratio, ours.high_ms / theirs.low_ms)
    return Verdict(word=word_of(ratio, low, high), ratio=ratio, low=low, high=high)
