"""What a sampler has observed: which candidates were tried, and what they showed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from studies.numerics.arrays import Matrix


@dataclass(frozen=True)
class Observations:
    """What was observed of the candidates that were tried, in the order of their trials.

    Candidates are rows of a catalogue, by their indexes.
    """

    values: Mapping[int, tuple[float, float]]  # log10 memory and log10 latency, where measured
    failed: frozenset[int]  # infeasible: on no front, whether it has values or not
    running: frozenset[int] = frozenset()  # being measured

    @cached_property
    def tried(self) -> frozenset[int]:
        """All candidates that will not be proposed again."""
        return self.failed | self.running | self.values.keys()

    @cached_property
    def indexes(self) -> NDArray[np.int64]:
        """The same as an array, in no particular order."""
        return np.fromiter(self.tried, dtype=np.int64, count=len(self.tried))

    @cached_property
    def known(self) -> NDArray[np.int64]:
        """The candidates with values, in the order of their trials."""
        return np.fromiter(self.values, dtype=np.int64, count=len(self.values))

    @cached_property
    def numbers(self) -> Matrix:
        """The values of `known`, `(known, 2)`: log10 memory and log10 latency."""
        return np.array(list(self.values.values()), dtype=np.float64).reshape(-1, 2)
