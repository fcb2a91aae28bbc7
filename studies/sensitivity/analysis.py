"""Sensitivity of memory, latency and failure to every axis of a study."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from studies.numerics.arrays import Matrix
from studies.numerics.gp import Axes
from studies.numerics.interval import Interval
from studies.numerics.threads import one_thread
from studies.sensitivity.changes import ChoiceEffect, Level, changes_of, levels_of
from studies.sensitivity.effects import (
    Interaction,
    Known,
    Share,
    interactions,
    shares,
    widening_of,
)
from studies.sensitivity.evidence import Evidence
from studies.sensitivity.extent import MOST_CONFIGURATIONS, Extent, extent_of
from studies.sensitivity.population import Population
from studies.sensitivity.posterior import Field, Grid, Posterior
from studies.sensitivity.quality import Quality, surrogate_quality, training_mask

DRAWS = 64
MEMORY, LATENCY, FAILURE = QUANTITIES = ("peak_memory_mib", "latency_ms", "failure")


@dataclass(frozen=True, slots=True)
class Objective:
    """What drives one quantity: log10 of memory or latency, or the probability of failing."""

    name: str
    quality: Quality
    changes: tuple[
        ChoiceEffect, ...
    ]  # without an effect where nothing is ranked: measured pairs alone
    # The rest is empty where nothing is ranked.
    shares: tuple[Share, ...] = ()  # of the variance over all possible configurations
    decisions: tuple[Share, ...] = ()  # of the variance inside workloads: the variant's axes
    workloads: Interval | None = None  # share of the variance that is between workloads
    interactions: tuple[Interaction, ...] = ()
    levels: tuple[Level, ...] = ()  # of numeric axes
    by_workload: Mapping[str, tuple[Share, ...]] | None = None
    prior_share: float | None = None  # of what is predicted: the square of its correlation


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What drives memory, latency and failure in a study."""

    objectives: Mapping[str, Objective]
    possible: int
    extent: Extent  # what effects are averaged over
    probes: int
    determined: tuple[str, ...]  # axes that never change alone
    # What is known at every possible configuration, by quantity that is ranked.
    known: Mapping[str, Known]


def analyse(
    evidence: Evidence, *, by_workload: bool = False, most: int = MOST_CONFIGURATIONS
) -> Sensitivity:
    """Return what drives memory, latency and failure. A function of the evidence alone.

    Of a space of more than `most` configurations, effects are averages over a part.
    """
    # Thousands of products of small matrices: threads that wait for each other on a busy machine
    # cost more than they gain.
    with one_thread():
        return _analyse(evidence, by_workload, most)


def _analyse(evidence: Evidence, by_workload: bool, most: int) -> Sensitivity:
    catalogue = evidence.catalogue
    if not catalogue.choices:  # a single configuration: nothing varies
        count = len(evidence.observations.tried)
        quality = Quality(count, count, exact=True)
        nothing = {name: Objective(name, quality, ()) for name in QUANTITIES}
        extent = Extent(np.arange(len(catalogue)), {})
        return Sensitivity(nothing, len(catalogue), extent, len(evidence.probes), (), {})
    together = np.array([name not in catalogue.decided for name in catalogue.choices])
    axes = Axes.of(catalogue.points, catalogue.named)
    grid = Grid(catalogue.points, axes, together)
    extent = extent_of(catalogue, most)
    everything = Population(catalogue.codes[extent.rows])
    objectives: dict[str, Objective] = {}
    known: dict[str, Known] = {}
    for place, name in enumerate(QUANTITIES):
        tried, values, rows = _values(evidence, place)
        prior = None if evidence.prior is None or name == FAILURE else evidence.prior[:, place]
        field = Field(catalogue.points, axes, grid, prior)
        rng = np.random.default_rng((evidence.seed, place))
        probes = evidence.probes[np.isin(evidence.probes, tried)]
        some = training_mask(tried, probes, len(rows))
        left_out = len(tried) - int(some.sum())
        tried, values = tried[some], values[some]
        probes = np.intersect1d(probes, tried)
        quality = surrogate_quality(field, tried, values, probes, len(rows), rng)
        quality = dataclasses.replace(quality, left_out=left_out)
        if quality.refusal is None and np.ptp(values):
            known[name] = _learn(field, tried, values, quality, rng)
        if name != FAILURE and MEMORY in known:
            rows = np.setdiff1d(rows, _too_large(evidence, known[MEMORY]))
        within = np.intersect1d(rows, extent.rows)
        population = (
            everything if len(within) == len(extent.rows) else Population(catalogue.codes[within])
        )
        if name in known:
            objective = _objective(
                evidence, population, within, name, place, quality, known[name], prior
            )
            if by_workload:
                shares_of = _by_workload(evidence, rows, known[name])
                objective = dataclasses.replace(objective, by_workload=shares_of)
            objectives[name] = objective
        else:
            changes = changes_of(evidence, population, within, name, place, None)
            objectives[name] = Objective(name, quality, changes)
    names = list(catalogue.choices)
    determined = [names[axis] for axis in everything.axes if not everything.freedom(axis)]
    return Sensitivity(
        objectives, len(catalogue), extent, len(evidence.probes), tuple(determined), known
    )


def _by_workload(
    evidence: Evidence, rows: NDArray[np.int64], everywhere: Known
) -> dict[str, tuple[Share, ...]]:
    """Return the shares of the variant's axes in each workload, of more than one configuration."""
    catalogue = evidence.catalogue
    names = list(catalogue.choices)
    decided = [axis for axis, name in enumerate(names) if name in catalogue.decided]
    found = {}
    for number, workload in enumerate(evidence.workloads):
        mine = rows[catalogue.workloads[rows] == number]
        if len(mine) > 1:
            of_one = Population(catalogue.codes[mine])
            found[workload.key] = shares(of_one, everywhere.of(mine), names, decided)
    return found


def _values(
    evidence: Evidence, place: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Return what was tried, with values, and the configurations that can have one.

    What failed without numbers has neither memory nor latency, and is no part of their effects;
    neither is what will run out of memory, see `_too_large`.
    """
    observations, every = evidence.observations, np.arange(len(evidence.catalogue))
    if place == QUANTITIES.index(FAILURE):
        tried = np.array(
            [*dict.fromkeys((*observations.values, *sorted(observations.failed)))], dtype=np.int64
        )
        return tried, np.isin(tried, list(observations.failed)).astype(np.float64), every
    return (
        observations.known,
        observations.numbers[:, place],
        np.setdiff1d(every, list(observations.failed - observations.values.keys())),
    )


def _too_large(evidence: Evidence, memory: Known) -> NDArray[np.int64]:
    """Return the untried configurations that will need more memory than there is."""
    beyond = np.flatnonzero(memory.mean > np.log10(evidence.capacity_mib))
    return np.setdiff1d(beyond, list(evidence.observations.tried))


def _learn(
    field: Field,
    tried: NDArray[np.int64],
    values: NDArray[np.float64],
    quality: Quality,
    rng: np.random.Generator,
) -> Known:
    if quality.exact:
        mean = np.zeros(len(field.points))
        mean[tried] = values
        return Known(mean, np.zeros((len(mean), 1)), np.ones(1))
    posterior = Posterior(field, tried, values, field.fit_hyperparameters(tried, values))
    return Known(
        posterior.mean(),
        posterior.deviations(DRAWS, rng),
        widening_of(quality.surprise, quality.probes, DRAWS, rng),
    )


def _objective(
    evidence: Evidence,
    population: Population,
    rows: NDArray[np.int64],
    name: str,
    place: int,
    quality: Quality,
    everywhere: Known,
    prior: NDArray[np.float64] | None,
) -> Objective:
    catalogue, known = evidence.catalogue, everywhere.of(rows)
    names = list(catalogue.choices)
    decided = [axis for axis in population.axes if names[axis] in catalogue.decided]
    context = [axis for axis in population.axes if axis not in decided]

    def between(values: Matrix) -> NDArray[np.float64]:
        inside = population.variance_within(context, values)
        return np.maximum(population.variance_within((), values) - inside, 0.0)

    of_axes = shares(population, known, names, population.axes)
    share = None
    if prior is not None and np.ptp(prior[rows]):
        share = float(np.corrcoef(prior[rows], known.mean)[0, 1] ** 2)
    return Objective(
        name,
        quality,
        changes_of(evidence, population, rows, name, place, known),
        of_axes,
        shares(population, known, names, decided, context),
        known.spread(between).share_of(known.spread(partial(population.variance_within, ()))),
        interactions(population, known, names, of_axes),
        levels_of(evidence, population, known),
        prior_share=share,
    )
