"""What one choice does instead of another, in plain units, and what was seen of it directly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from studies.numerics.interval import Interval
from studies.sensitivity.effects import Known
from studies.sensitivity.evidence import Evidence
from studies.sensitivity.population import Contrast, Population
from variants.axes import Choice

TENTHS = (0.1, 0.9)


@dataclass(frozen=True, slots=True)
class ChoiceEffect:
    """One choice of an axis instead of its reference, all else the same.

    Of memory and latency a factor (geometric mean), of failure a difference in probability.
    """

    axis: str
    choice: Choice
    reference: Choice
    comparable: int  # pairs of possible configurations that differ in this alone
    effect: Interval | None  # mean over them; None where nothing is ranked
    tenths: tuple[float, float] | None  # nine in ten of them have more, and less
    pairs: tuple[tuple[int, int], ...]  # of trials with numbers: the choice's, the reference's
    seen: float | None  # the mean over those


@dataclass(frozen=True, slots=True)
class Level:
    """A choice of a numeric axis, and the geometric mean over configurations with it, log10."""

    axis: str
    choice: Choice
    mean: Interval


def changes_of(
    evidence: Evidence,
    population: Population,
    rows: NDArray[np.int64],
    name: str,
    place: int,
    known: Known | None,
) -> tuple[ChoiceEffect, ...]:
    """Return every choice against its axis's reference; `rows` are the population's."""
    found = []
    for axis, (of_axis, choices) in enumerate(evidence.catalogue.choices.items()):
        reference = evidence.references[of_axis]
        base = choices.index(reference) + 1
        for code, choice in enumerate(choices, 1):
            contrast = population.contrast(axis, code, base) if code != base else None
            if contrast is None:
                continue
            pairs, seen = _seen(evidence, contrast, rows, place)
            effect, tenths = None, None
            if known is not None:
                mean = known.linear(contrast.weights)
                effect = Interval(
                    *(_plain(place, value) for value in (mean.value, mean.low, mean.high))
                )
                low, high = np.quantile(
                    known.mean[contrast.chosen] - known.mean[contrast.reference], TENTHS
                )
                tenths = _plain(place, float(low)), _plain(place, float(high))
            comparable = len(contrast.chosen)
            found.append(
                ChoiceEffect(of_axis, choice, reference, comparable, effect, tenths, pairs, seen)
            )
    return tuple(found)


def levels_of(evidence: Evidence, population: Population, known: Known) -> tuple[Level, ...]:
    """Return the choices of all numeric axes, rising."""
    return tuple(
        Level(name, choices[place], known.linear(population.mean_at(axis, int(place) + 1)))
        for axis, (name, choices) in enumerate(evidence.catalogue.choices.items())
        if not evidence.catalogue.named[axis]
        for place in np.argsort(np.array(choices))
        if population.holds(axis, int(place) + 1)
    )


def _seen(
    evidence: Evidence, contrast: Contrast, rows: NDArray[np.int64], place: int
) -> tuple[tuple[tuple[int, int], ...], float | None]:
    """Return the trials that differ in nothing but the choice, and their mean effect."""
    values = np.full(len(evidence.catalogue), np.nan)
    if place < 2:
        values[evidence.observations.known] = evidence.observations.numbers[:, place]
    else:
        tried = np.array(list(evidence.numbers), dtype=np.int64)
        values[tried] = np.isin(tried, list(evidence.observations.failed))
    chosen, reference = rows[contrast.chosen], rows[contrast.reference]
    differences = values[chosen] - values[reference]
    both = ~np.isnan(differences)
    if not both.any():
        return (), None
    number_of = evidence.numbers
    pairs = tuple(
        (number_of[one], number_of[other])
        for one, other in zip(chosen[both].tolist(), reference[both].tolist(), strict=True)
    )
    return pairs, _plain(place, float(differences[both].mean()))


def _plain(place: int, value: float) -> float:
    """Return a factor of memory and latency, a difference of probabilities."""
    return 10**value if place < 2 else value
