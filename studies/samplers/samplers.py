"""The samplers by the names that `--sampler` takes."""

from __future__ import annotations

from collections.abc import Callable

from studies.numerics.arrays import Matrix
from studies.samplers.base import CatalogueSampler
from studies.samplers.optuna_samplers import OPTUNA_SAMPLERS, OptunaSampler
from studies.samplers.ordered import ORDERS, OrderedSampler
from studies.space.catalogue import Catalogue

OWN = "goldilocks"
SAMPLERS = (OWN, *OPTUNA_SAMPLERS, *ORDERS)


def make_sampler(
    name: str, catalogue: Catalogue, prior: Callable[[], Matrix] | None, seed: int
) -> CatalogueSampler:
    """Return a sampler of `SAMPLERS`.

    Args:
        name: Which.
        catalogue: What it may propose.
        prior: Returns the log10 memory and latency that are expected, `(n, 2)`; None for no prior.
        seed: Of everything that it draws.
    """
    if name == OWN:
        # Takes a second to import, which no other command and no mistake need wait for.
        from studies.samplers.goldilocks import GoldilocksSampler

        return GoldilocksSampler(catalogue, None if prior is None else prior(), seed)
    if name in ORDERS:
        return OrderedSampler(catalogue, name, seed)
    return OptunaSampler(catalogue, name, seed)
