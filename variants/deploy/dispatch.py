"""Which way a call takes: that of the nearest measured workload, in logarithms."""

from __future__ import annotations

import math
import sys
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from variants.backends import BACKENDS, Support, Takes
from variants.backends.backend import Unmasked
from variants.caches import StepPosition
from variants.configuration import Configuration, default_variant
from variants.deploy.layer_cache import Layout
from variants.deploy.model_choice import ModelChoice
from variants.device import Device
from variants.gqa import GroupedHeads
from variants.kv_dtypes import KeyValue, Scales
from variants.support import unsupported_reasons
from variants.variant import Variant
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
    unmasked: Unmasked | None  # of one row that sees all keys: see `Prepared.unmasked`


@dataclass(slots=True)
class DispatchDecision:
    """The ways of one signature, by length."""

    signature: CallSignature
    bounds: list[float]
    ways: list[PreparedRoute]
    shortest: float  # lengths between which it was measured
    longest: float

    def around(self, length: int) -> tuple[float, float]:
        """Return between which lengths calls are like one of `length`: a way, and what is said."""
        index = bisect_right(self.bounds, length)
        low = self.bounds[index - 1] if index else 0.0
        high = self.bounds[index] if index < len(self.bounds) else math.inf
        if length < self.shortest:
            high = min(high, self.shortest)
        elif length <= self.longest:
            low, high = max(low, self.shortest), min(high, self.longest + 1)
        else:
            low = max(low, self.longest + 1)
        return math.ceil(low), math.ceil(min(high, self.ways[index].capacity)) - 1


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


class MeasuredWorkloads:
    """Which of the measured workloads are like a call, and what serves one that none is like."""

    def __init__(
        self,
        measured: Sequence[Configuration],
        model: ModelChoice,
        device: Device,
        say: Callable[[str], None],
    ) -> None:
        """Take one configuration a workload, and what tells the user of calls unlike all."""
        self.measured, self.model, self._device, self._say = measured, model, device, say
        self.workload = measured[0].workload

    def like(self, signature: CallSignature) -> list[Configuration]:
        """Return the measured configurations of a call's phase and score_mod that can take it."""
        score_mod = signature.scores
        like = [of for of in self.measured if of.workload.score_mod == score_mod]
        phases = [signature.phase]
        if self.model.cache == "none" and signature.phase is Phase.PREFILL:
            phases.append(Phase.DECODE)  # which recomputes everything, as a prompt
        here = next(
            (found for p in phases if (found := [of for of in like if of.workload.phase is p])), []
        )
        what = f"{signature.phase} with score_mod {score_mod}"
        if not here:
            default = self.default(signature).variant.backend
            self._say(f"{what} was not measured: backend {default} is used")
            return []
        taken = [of for of in here if self._can_hide(of.variant, signature)]
        if len(taken) < len(here):
            refusing = sorted({of.variant.backend for of in here if of not in taken})
            instead = (
                taken[0].variant.backend if taken else self.default(signature).variant.backend
            )
            why, where = (
                ("a mask hides what a captured step has not reached", "in captured steps")
                if signature.fixed and not signature.padded
                else ("padding needs one", "for padded batches")
            )
            self._say(
                f"{what}: backend {', '.join(refusing)} takes no mask, and {why}: {instead} is "
                f"used {where}"
            )
        return taken

    def support(self, variant: Variant) -> Support:
        """Return what the variant's backend can take here."""
        return BACKENDS[variant.backend].support[self._device.kind]

    def counts_keys(self, configuration: Configuration) -> bool:
        """Tell whether its backend is told on the device how many keys there are."""
        support = BACKENDS[configuration.variant.backend].support.get(self._device.kind)
        return support is not None and support.counts_keys

    def _can_hide(self, variant: Variant, signature: CallSignature) -> bool:
        """Tell whether a backend can hide what a call's rows must not see."""
        support = self.support(variant)
        if support.takes > Takes.PLAIN:
            return True
        if signature.fixed:
            return support.counts_keys and not signature.padded
        return not signature.masked

    def default(self, signature: CallSignature) -> Configuration:
        """Return what PyTorch does for a user who chose nothing, with the model's choices.

        Raises:
            ValueError: No backend can.
        """
        workload = self.workload.model_copy(
            update={"phase": signature.phase, "score_mod": signature.scores}
        )
        usual = default_variant(workload, self._device).backend
        for backend in (usual, *BACKENDS):
            chosen = self.model.model_dump() | {"backend": backend, "execution": "eager"}
            found = Configuration.of(workload, chosen)
            if not unsupported_reasons(found, self._device) and self._can_hide(
                found.variant, signature
            ):
                return found
        raise ValueError(
            f"no backend computes {signature.phase} with score_mod {signature.scores} for a "
            f"model of {self.model.label}"
        )
