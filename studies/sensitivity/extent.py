"""Which configurations effects are averaged over: all, or of very many those of some workloads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from studies.sensitivity.population import INACTIVE
from studies.space.catalogue import Catalogue
from variants.axes import Choice

MOST_CONFIGURATIONS = 24_000


@dataclass(frozen=True, slots=True)
class Extent:
    """Configurations of a catalogue, whole workloads of a sub-grid."""

    rows: NDArray[np.int64]
    # The choices that are left of each workload axis that lost some; empty where all are there.
    kept: Mapping[str, tuple[Choice, ...]]

    def text(self, possible: int) -> str:
        """Return a sentence about what was left out of so many; empty where nothing was."""
        if not self.kept:
            return ""
        axes = "; ".join(f"{name} {', '.join(map(str, left))}" for name, left in self.kept.items())
        return (
            f"Effects are averages over {len(self.rows):,} of {possible:,} possible "
            f"configurations, those with {axes}."
        )


def extent_of(catalogue: Catalogue, most: int = MOST_CONFIGURATIONS) -> Extent:
    """Return all configurations, or of more than `most` those of a part of the workloads.

    A part that is a grid again, since effects compare configurations that differ in one axis.
    Numbers are thinned evenly and keep their least and largest; the variant's axes stay whole.
    """
    names = list(catalogue.choices)
    left = {name: _in_order(choices) for name, choices in catalogue.choices.items()}
    context = [name for name in names if name not in catalogue.decided]
    rows = np.arange(len(catalogue))
    kept: dict[str, tuple[Choice, ...]] = {}
    while len(rows) > most:
        name = max(context, key=lambda name: (_thins(left[name]), len(left[name])), default=None)
        if name is None or len(left[name]) == 1:
            break  # variants of a single workload
        kept[name] = left[name] = _one_less(left[name])
        codes = [INACTIVE, *(catalogue.choices[name].index(choice) + 1 for choice in left[name])]
        rows = rows[np.isin(catalogue.codes[rows, names.index(name)], codes)]
    return Extent(rows, kept)


def _in_order(choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
    numbers = [choice for choice in choices if isinstance(choice, int)]
    return tuple(sorted(numbers)) if len(numbers) == len(choices) else choices


def _one_less(choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
    if not _thins(choices):
        return choices[:-1]
    places = np.linspace(0, len(choices) - 1, len(choices) - 1).round().astype(int)
    return tuple(choices[place] for place in places)


def _thins(choices: tuple[Choice, ...]) -> bool:
    """Tell whether numbers lie between the least and the largest."""
    return isinstance(choices[0], int) and len(choices) > 2
