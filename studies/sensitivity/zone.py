"""The Goldilocks zone: configurations about as good as some point of their workload's front.

Good in both: a configuration is inside when one front point exists that it exceeds by no more
than the tolerance in memory and in latency. The front is that of everything measured, PyTorch's
default included where it is usable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from studies.numerics.arrays import Matrix
from studies.numerics.hypervolume import pareto_front
from studies.numerics.interval import Interval
from studies.samplers.acquisition import HypervolumeAcquisition
from studies.samplers.goldilocks import candidates_of
from studies.sensitivity.analysis import FAILURE, LATENCY, MEMORY, Sensitivity
from studies.sensitivity.effects import TAILS
from studies.sensitivity.evidence import Evidence
from variants.axes import Choice

SHOWN = 5  # proposals
LEAST_GAIN = 5e-4  # of the hypervolume; less is 0.0 % as it is printed


@dataclass(frozen=True, slots=True)
class ZonePart:
    """How many of some configurations are inside the zone."""

    possible: int
    usable: int  # MEASURED
    tried: int
    inside: int  # of those that are usable
    # How many untried ones are expected inside; None where memory or latency is not predicted.
    expected: Interval | None


@dataclass(frozen=True, slots=True)
class ZoneChoice:
    """One choice of an axis, and how many configurations with it are inside the zone."""

    axis: str
    choice: Choice
    part: ZonePart
    workloads: int  # in which some configuration with it is inside

    @property
    def standing(self) -> str:
        """Whether it survives: `in`, `out` (tried, never inside) or `untried`."""
        if self.part.inside:
            return "in"
        return "out" if self.part.tried else "untried"


@dataclass(frozen=True, slots=True)
class WorkloadZone:
    """The front of one workload, and what is inside the zone beside it."""

    key: str
    front: int  # points, the default among them
    part: ZonePart
    trials: tuple[int, ...]  # numbers of those inside


@dataclass(frozen=True, slots=True)
class ZoneProposal:
    """An untried configuration, and what measuring it is expected to add."""

    workload: str
    variant: str
    gain: float  # hypervolume, as a share of its workload's


@dataclass(frozen=True, slots=True)
class Zone:
    """The zone of a study, and where to look next."""

    tolerance: float
    part: ZonePart
    choices: tuple[ZoneChoice, ...]
    workloads: tuple[WorkloadZone, ...]
    proposals: tuple[ZoneProposal, ...]  # the best of each of the most promising workloads

    @property
    def worth_trying(self) -> tuple[ZoneProposal, ...]:
        """The proposals that promise anything."""
        return tuple(one for one in self.proposals if one.gain >= LEAST_GAIN)


def find_zone(evidence: Evidence, sensitivity: Sensitivity, tolerance: float) -> Zone:
    """Return the zone within `tolerance` of the fronts, 0.1 for 10 %."""
    catalogue, observations = evidence.catalogue, evidence.observations
    margin = math.log10(1 + tolerance)
    usable = np.array(sorted(observations.values.keys() - observations.failed), dtype=np.int64)
    points = np.array([observations.values[index] for index in usable.tolist()]).reshape(-1, 2)
    inside = np.zeros(len(catalogue), dtype=bool)
    draws = _draws(sensitivity)
    # (untried configurations, draws): the chance that a configuration is inside, by draw.
    chances = None if draws is None else np.zeros_like(draws[0])
    fronts = []
    for number in range(len(catalogue.sizes)):
        mine = catalogue.workloads[usable] == number
        default = [evidence.defaults[number]] if number in evidence.defaults else []
        front = pareto_front(np.vstack([points[mine], np.array(default).reshape(-1, 2)]))
        fronts.append(len(front))
        inside[usable[mine]] = _near(points[mine, 0], points[mine, 1], front, margin)
        if draws is not None and chances is not None:
            rows = slice(*_ends(catalogue.of_workload(number)))
            chances[rows] = _near(draws[0][rows], draws[1][rows], front, margin)
    tried = np.isin(np.arange(len(catalogue)), list(observations.tried))
    usable_mask = np.isin(np.arange(len(catalogue)), usable)
    if chances is not None:
        chances *= _success(evidence, sensitivity)[:, None]
        chances[tried] = 0.0

    def part(rows: NDArray[np.bool_]) -> ZonePart:
        expected = None
        if chances is not None:
            count = chances[rows].sum(axis=0)
            low, high = np.quantile(count, TAILS)
            expected = Interval(float(count.mean()), float(low), float(high))
        return ZonePart(
            int(rows.sum()),
            int((rows & usable_mask).sum()),
            int((rows & tried).sum()),
            int((rows & inside).sum()),
            expected,
        )

    workloads = []
    for number, workload in enumerate(evidence.workloads):
        rows = catalogue.workloads == number
        trials = sorted(
            evidence.numbers[index] for index in np.flatnonzero(rows & inside).tolist()
        )
        workloads.append(WorkloadZone(workload.key, fronts[number], part(rows), tuple(trials)))
    choices = []
    for axis, (name, known_choices) in enumerate(catalogue.choices.items()):
        for code, choice in enumerate(known_choices, 1):
            rows = catalogue.codes[:, axis] == code
            of = len(np.unique(catalogue.workloads[rows & inside]))
            choices.append(ZoneChoice(name, choice, part(rows), of))
    everything = np.ones(len(catalogue), dtype=bool)
    return Zone(
        tolerance, part(everything), tuple(choices), tuple(workloads), _proposals(evidence)
    )


def _near(
    memory: NDArray[np.float64], latency: NDArray[np.float64], front: Matrix, margin: float
) -> NDArray[np.bool_]:
    """Return whether some front point is exceeded by no more than `margin` in both."""
    found = np.zeros(memory.shape, dtype=bool)
    for least_memory, least_latency in front:
        found |= (memory <= least_memory + margin) & (latency <= least_latency + margin)
    return found


def _ends(rows: range) -> tuple[int, int]:
    return rows.start, rows.stop


def _draws(sensitivity: Sensitivity) -> tuple[Matrix, Matrix] | None:
    known: Mapping[str, object] = sensitivity.known
    if MEMORY not in known or LATENCY not in known:
        return None
    memory, latency = sensitivity.known[MEMORY].draws, sensitivity.known[LATENCY].draws
    if memory.shape != latency.shape:
        return None  # everything was measured: there is nothing left to predict
    return memory, latency


def _success(evidence: Evidence, sensitivity: Sensitivity) -> NDArray[np.float64]:
    """Return the probability that a configuration does not fail, the observed one at worst."""
    observations, count = evidence.observations, len(evidence.catalogue)
    if FAILURE in sensitivity.known:
        predicted: NDArray[np.float64] = 1 - np.clip(sensitivity.known[FAILURE].mean, 0.0, 1.0)
        return predicted
    return np.full(count, 1 - len(observations.failed) / max(1, len(observations.tried)))


def _proposals(evidence: Evidence) -> tuple[ZoneProposal, ...]:
    """Return the candidates of the largest acquisition value, one a workload."""
    candidates = candidates_of(evidence.catalogue, evidence.prior)
    pool, gain = HypervolumeAcquisition(candidates, evidence.seed).rank(evidence.observations)
    found: dict[int, ZoneProposal] = {}
    for place in np.argsort(-gain, kind="stable").tolist():
        index = int(pool[place])
        number = int(evidence.catalogue.workloads[index])
        if number not in found:
            configuration = evidence.configurations[index]
            found[number] = ZoneProposal(
                configuration.workload.key, configuration.variant.key, float(gain[place])
            )
        if len(found) == SHOWN:
            break
    return tuple(found.values())
