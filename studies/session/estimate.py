"""How long a run will take, from what its trials took so far, or else those of other runs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from objectives.schema.evaluation import Evaluation
from studies.results.front import MOST_FINALISTS
from studies.space.space import Survey
from studies.study.anchor import EVERY
from studies.study.trials import FinishedTrial
from variants.device import DeviceKind

# Seconds a trial, of a configuration that does not compile and of one that does. Orders of
# magnitude of small decode shapes, as `python -m search run` prints them at its end: larger shapes
# take longer.
SECONDS_A_TRIAL: dict[DeviceKind, tuple[float, float]] = {"cuda": (0.8, 5.0), "cpu": (1.2, 6.0)}
START_S = 10.0
ANCHOR_S = 2.0
OWN_S = 0.2  # of a trial: its proposal, its storage and its messages
# Of a trial, what timing a finalist in turns takes: it is built and compiled anew, but neither
# checked nor profiled.
FINALIST_SHARE = 0.6
_ENOUGH = 3  # trials of a run, that say more of its pace than what each of them took by itself


def estimate_s(
    survey: Survey,
    kind: DeviceKind,
    trials: int,
    *,
    finalists: bool = True,
    told: Sequence[FinishedTrial] = (),
    due: int = 0,
    workers: int = 1,
) -> float:
    """Return the expected seconds until a study holds `trials` trials, with all around them.

    Args:
        survey: The space.
        kind: Of device.
        trials: Of the study, in all.
        finalists: Whether those are timed in turns at the end.
        told: What the study holds: what its trials took counts more than what others did.
        due: Workloads whose finalists are missing, though no trial may be.
        workers: Devices that measure at once.
    """
    pace = TrialPace.of(survey, kind, (trial.evaluation for trial in told))
    budget = min(trials, survey.size)
    left = max(0, budget - len(told))
    workloads = len(survey.workloads)
    defaults = 0.0 if told else workloads * pace.mean_s[False]
    due = workloads if left else due
    finals = due / workloads * pace.finalists_s(workloads, budget) if finalists else 0.0
    work = defaults + left * pace.a_trial_s(left) + finals + ANCHOR_S * (left // EVERY)
    return START_S + 2 * ANCHOR_S + work / workers


@dataclass
class TrialPace:
    """What trials take, those that compile apart from the others, and what is left of them."""

    usual_s: tuple[float, float]  # of one that does not compile and of one that does, elsewhere
    possible: tuple[int, int]  # configurations of the space, likewise
    begin: float = field(default_factory=time.monotonic)
    _taken_s: list[float] = field(default_factory=lambda: [0.0, 0.0])
    _tried: list[int] = field(default_factory=lambda: [0, 0])
    _own: int = 0  # trials of this run
    _own_s: float = 0.0  # that they took, each by itself

    @classmethod
    def of(cls, survey: Survey, kind: DeviceKind, told: Iterable[Evaluation] = ()) -> TrialPace:
        """Return the pace of a space's trials, of which some were told by earlier runs."""
        compiles = [v.compiles for variants in survey.possible.values() for v in variants]
        possible = (compiles.count(False), compiles.count(True))
        pace = cls(SECONDS_A_TRIAL[kind], possible)
        for evaluation in told:
            pace._count(evaluation)
        return pace

    def tell(self, evaluation: Evaluation) -> None:
        """Take in a trial of this run."""
        self._own_s += self._count(evaluation)
        self._own += 1

    def _count(self, evaluation: Evaluation) -> float:
        spent = sum(evaluation.seconds.values()) + OWN_S
        compiles = evaluation.configuration.variant.compiles
        self._taken_s[compiles] += spent
        self._tried[compiles] += 1
        return spent

    @property
    def mean_s(self) -> tuple[float, float]:
        """Seconds of a trial of each kind; the usual ones count as one trial."""
        plain, compiled = (
            (usual + taken) / (1 + count)
            for usual, taken, count in zip(self.usual_s, self._taken_s, self._tried, strict=True)
        )
        return plain, compiled

    def a_trial_s(self, left: int) -> float:
        """Return the mean of the next so many trials, in seconds of one device.

        Where they are all that is left of the space, their kinds are known. Else the next ones are
        taken to be half like those that are left and half like those that were tried: a search
        turns to what is good.
        """
        rest = [max(0, n - tried) for n, tried in zip(self.possible, self._tried, strict=True)]
        share = rest[True] / max(1, sum(rest))
        if left < sum(rest) and sum(self._tried) >= _ENOUGH:
            share = (share + self._tried[True] / sum(self._tried)) / 2
        plain, compiled = self.mean_s
        return share * compiled + (1 - share) * plain

    def left_s(self, left: int, workers: int = 1, now: float | None = None) -> float:
        """Return the expected seconds of so many more trials.

        What lies between trials, and that several devices measure at once, shows in how long the
        trials of this run took together.
        """
        elapsed = (time.monotonic() if now is None else now) - self.begin
        known = self._own >= _ENOUGH and self._own_s > 0
        stretch = elapsed / self._own_s if known else 1 / workers
        return left * self.a_trial_s(left) * stretch

    def finalists_s(self, workloads: int, trials: int) -> float:
        """Return the seconds of one device that finalists of a study of so many trials take."""
        each = 1 + min(MOST_FINALISTS, trials / max(1, workloads))
        return FINALIST_SHARE * workloads * each * self.a_trial_s(trials)


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
