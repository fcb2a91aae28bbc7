"""Samplers that take all configurations in an order fixed beforehand, whatever was observed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from studies.samplers.base import CatalogueSampler
from studies.samplers.observations import Observations
from studies.space.catalogue import Catalogue
from studies.space.probes import probe_order

# What an expert tries first on each axis; a choice that is not listed comes after those that are.
RECIPE: Mapping[str, tuple[str, ...]] = {
    "execution": ("cuda_graph", "compiled", "eager"),
    "cache": ("ring", "static", "paged", "concat", "none"),
    "precision": ("bf16", "fp16", "tf32", "fp32"),
    "backend": ("flash", "cudnn", "efficient", "flex", "math", "eager"),
    "quantization": ("none", "fp8_weight_only", "int8_weight_only"),
    "kv_dtype": ("same", "fp8", "int8"),
    "gqa": ("native", "repeat_kv"),
}


def sweep(catalogue: Catalogue, seed: int) -> NDArray[np.int64]:
    """Return workload after workload, each as the axes are listed."""
    return np.arange(len(catalogue))


def at_random(catalogue: Catalogue, seed: int) -> NDArray[np.int64]:
    """Return the order of probes: uniform over configurations, even over workloads."""
    return probe_order(catalogue.sizes, seed)


def recipe(catalogue: Catalogue, seed: int) -> NDArray[np.int64]:
    """Return what an expert tries first for each workload, then what differs least from it.

    A fused backend at half precision on a preallocated cache, launched as a graph.
    """
    off = np.zeros((len(catalogue), len(RECIPE)))
    for column, (name, wanted) in enumerate(RECIPE.items()):
        if name in catalogue.choices:
            choices = catalogue.choices[name]
            places = [wanted.index(c) if c in wanted else len(wanted) for c in map(str, choices)]
            codes = catalogue.codes[:, list(catalogue.choices).index(name)]
            off[:, column] = np.array([0, *places])[codes]
    workload_order = np.random.default_rng(seed).permutation(len(catalogue.sizes))
    rank = np.empty(len(catalogue))
    for number in range(len(catalogue.sizes)):
        mine = catalogue.of_workload(number)
        of_mine = off[mine.start : mine.stop]
        keys = (*of_mine.T[::-1], of_mine.sum(axis=1))  # the last one is sorted by first
        rank[mine.start + np.lexsort(keys)] = np.arange(len(mine))
    return np.lexsort((workload_order[catalogue.workloads], rank))


ORDERS: Mapping[str, Callable[[Catalogue, int], NDArray[np.int64]]] = {
    "random": at_random,
    "recipe": recipe,
    "sweep": sweep,
}


class OrderedSampler(CatalogueSampler):
    """Takes the next untried configuration of an order."""

    def __init__(self, catalogue: Catalogue, order: str, seed: int) -> None:
        """`order` is one of `ORDERS`."""
        super().__init__(catalogue, seed)
        self._order: list[int] = ORDERS[order](catalogue, seed).tolist()

    def choose(self, study: optuna.Study, trial: FrozenTrial, observations: Observations) -> int:
        """Return the first untried configuration of the order."""
        return next(index for index in self._order if index not in observations.tried)

    def forecast(self, observations: Observations) -> Iterable[int]:
        return self._order
