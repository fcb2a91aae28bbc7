"""How long a run will take, from what its trials took so far, or else those of other runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from studies.results.front import MOST_FINALISTS
from studies.space.space import Survey
from studies.study.anchor import EVERY
from studies.study.trials import FinishedTrial
from variants.device import DeviceKind

# Seconds a trial, of a backend that does not compile and of one that does. Orders of magnitude of
# small decode shapes, as `python -m search run` prints them at its end: larger shapes take longer.
SECONDS_A_TRIAL: dict[DeviceKind, tuple[float, float]] = {"cuda": (0.8, 5.0), "cpu": (1.2, 6.0)}
START_S = 10.0
ANCHOR_S = 2.0
OWN_S = 0.2  # of a trial: its proposal, its storage and its messages
FINALIST_S = 0.6  # of one configuration that is timed in turns, built anew
MOST_TOLD = 200  # trials that are looked at
_ENOUGH = 3  # trials of a kind, that say more than what others took elsewhere


def estimate_s(
    survey: Survey,
    kind: DeviceKind,
    trials: int,
    *,
    finalists: bool = True,
    told: Sequence[FinishedTrial] = (),
) -> float:
    """Return the expected seconds until a study holds `trials` trials, with all around them.

    Args:
        survey: The space.
        kind: Of device.
        trials: Of the study, in all.
        finalists: Whether those are timed in turns at the end.
        told: What the study holds: what its trials took counts more than what others did.
    """
    budget = min(trials, survey.size)
    left = max(0, budget - len(told))
    defaults = 0 if told else len(survey.workloads)
    return (
        START_S
        + ANCHOR_S * (2 + left // EVERY)
        + _rates(kind, told)[0] * defaults
        + left * seconds_a_trial(survey, kind, told)
        + (finalists_s(len(survey.workloads), budget) if finalists and left else 0.0)
    )


def seconds_a_trial(survey: Survey, kind: DeviceKind, told: Sequence[FinishedTrial] = ()) -> float:
    """Return the expected seconds of one trial."""
    plain, compiled = _rates(kind, told)
    variants = [variant for possible in survey.possible.values() for variant in possible]
    share = sum(variant.compiles for variant in variants) / max(1, len(variants))
    return share * compiled + (1 - share) * plain


def finalists_s(workloads: int, trials: int) -> float:
    """Return the expected seconds that finalists of a study of so many trials take."""
    each = min(MOST_FINALISTS, trials / max(1, workloads))
    return FINALIST_S * (workloads + each * workloads)


def _rates(kind: DeviceKind, told: Sequence[FinishedTrial]) -> tuple[float, float]:
    """Return the seconds of a trial that does not compile, and of one that does."""
    rates = []
    for compiles, usual in zip((False, True), SECONDS_A_TRIAL[kind], strict=True):
        taken = [
            sum(trial.evaluation.seconds.values()) + OWN_S
            for trial in told
            if trial.evaluation.configuration.variant.compiles == compiles
        ]
        rates.append(sum(taken) / len(taken) if len(taken) >= _ENOUGH else usual)
    return rates[0], rates[1]


@dataclass
class Pace:
    """How fast a part of a run goes, and how long what is left of it will take."""

    usual_s: float  # of one piece of work, before any is done
    begin: float = field(default_factory=time.monotonic)
    done: int = 0

    def left_s(self, left: int, now: float | None = None) -> float:
        """Return the expected seconds of so many more pieces."""
        taken = (time.monotonic() if now is None else now) - self.begin
        # The usual counts as one piece: it matters for the first few alone.
        return left * (taken + self.usual_s) / (self.done + 1)
