"""Which measured workload is nearest to a call, and what is prepared for calls like it."""

from __future__ import annotations

import math
import sys
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from variants.caches import StepPosition
from variants.configuration import Configuration
from variants.deploy.layer_cache import Layout
from variants.gqa import GroupedHeads
from variants.kv_dtypes import KeyValue, Scales
from variants.workload import Phase

_LARGEST = math.log(sys.float_info.max)


class CallSignature(NamedTuple):
    """What a decision depends on beside the length."""

    one_row: bool
    trains: bool
    batch: int
    q_heads: int
    head_dim: int
    dtype: torch.dtype
    score_mod: str | None
    scale: float | None
    masked: bool
    windowed: bool
    paged: bool
    fixed: bool  # one row at a position that only the device knows
    padded: bool  # of some sequences keys are hidden there
    layout: Layout

    @property
    def phase(self) -> Phase:
        """What the model is doing."""
        if self.trains:
            return Phase.TRAIN
        return Phase.DECODE if self.one_row else Phase.PREFILL

    @property
    def scores(self) -> str:
        """The score_mod, once it is known."""
        assert self.score_mod is not None
        return self.score_mod


@dataclass(slots=True)
class PreparedRoute:
    """One backend, ready for calls of one signature."""

    configuration: Configuration
    mask: Callable[[StepPosition], Any]  # what a call needs to know beside query, key and value
    attend: Callable[[Tensor, KeyValue, Any, Scales | None], Tensor]
    grouped: GroupedHeads  # how grouped heads reach the backend
    whole: bool  # it takes the whole buffer of a cache
    counts: bool  # it is told on the device how many keys there are, instead of a mask
    stored: bool  # it takes keys and values as they are stored
    capacity: int


@dataclass(slots=True)
class DispatchDecision:
    """The ways of one signature, by length."""

    signature: CallSignature
    bounds: list[float]
    ways: list[PreparedRoute]
    shortest: float  # lengths between which it was measured
    longest: float


class Route:
    """The configuration for every length, at one batch.

    The nearest is the one of least (log length ratio)² + (log batch ratio)². The lengths for
    which one of several parabolas of equal width is the lowest form an interval, so a route is a
    list of bounds, and a decision a bisection.
    """

    def __init__(self, measured: Sequence[Configuration], batch: int) -> None:
        """Divide all lengths among the configurations, of which there is one at least."""
        points = [
            (math.log(of.workload.seq_len), math.log(of.workload.batch / batch) ** 2)
            for of in measured
        ]
        bounds, owners = lowest_parabolas(points)
        # Nearly equal lengths of different batches may change places where no length is.
        self.bounds = [math.exp(bound) if bound < _LARGEST else math.inf for bound in bounds]
        self.configurations = [measured[owner] for owner in owners]
        batches = [of.workload.batch for of in measured]
        self.shortest = min(of.workload.seq_len for of in measured)
        self.longest = max(of.workload.capacity for of in measured)
        self.batches = min(batches), max(batches)
        self.batch_measured = self.batches[0] <= batch <= self.batches[1]

    def index(self, length: int) -> int:
        """Return the place of the configuration for `length` tokens among `configurations`."""
        return bisect_right(self.bounds, length)


def lowest_parabolas(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[int]]:
    """Return which of the parabolas (x − a)² + c is the lowest, from left to right.

    Bounds lie between owners, so there is one owner more. Of equal parabolas the first counts.
    """
    current = min(range(len(points)), key=lambda i: (*points[i], i))
    bounds: list[float] = []
    owners = [current]
    while True:
        a, c = points[current]
        crossings = [
            ((b * b + d - a * a - c) / (2 * (b - a)), -b, j)
            for j, (b, d) in enumerate(points)
            if b > a
        ]
        if not crossings:
            return bounds, owners
        bound, _, current = min(crossings)
        bounds.append(bound)
        owners.append(current)
