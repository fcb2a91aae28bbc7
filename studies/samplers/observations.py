"""What a sampler knows: which candidates were tried, and what they showed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from studies.numerics.arrays import Matrix


@dataclass(frozen=True)
class Observations:
    """What is known about candidates that were tried, in the order of telling."""

    values: Mapping[int, tuple[float, float]]  # log10 memory and log10 latency, where measured
    failed: frozenset[int]  # no candidate of a front, measured or not
    running: frozenset[int] = frozenset()

    @cached_property
    def tried(self) -> frozenset[int]:
        """All that will not be proposed again."""
        return self.failed | self.running | self.values.keys()

    @cached_property
    def indexes(self) -> NDArray[np.int64]:
        """The same as an array, in no order."""
        return np.fromiter(self.tried, dtype=np.int64, count=len(self.tried))

    @cached_property
    def known(self) -> NDArray[np.int64]:
        """The candidates with values, in the order of telling."""
        return np.fromiter(self.values, dtype=np.int64, count=len(self.values))

    @cached_property
    def numbers(self) -> Matrix:
        """Their values, `(known, 2)`."""
        return np.array(list(self.values.values()), dtype=np.float64).reshape(-1, 2)
