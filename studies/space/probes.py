"""Probe trials: configurations tried to fill the space, not because they look good.

Trials that an optimizer chose tell little of what the rest of the space is like, and flatter
whoever is fitted to them. All possible configurations therefore have one fixed random order,
spread evenly over workloads, and the beginning of it that was tried is an honest sample of the
space: whoever tried it, and for whatever reason.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray


def probe_order(sizes: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the order in which probes are taken, as indexes into a catalogue.

    Systematic sampling from a shuffled list: any beginning holds of each workload its share,
    drawn at random. `sizes`: how many configurations each workload has.
    """
    rng = np.random.default_rng((seed, 0x9B0BE))
    places = [(rng.permutation(size) + rng.random()) / max(1, size) for size in sizes]
    return np.argsort(np.concatenate(places), kind="stable")


def probed(sizes: NDArray[np.int64], seed: int, tried: Collection[int]) -> NDArray[np.int64]:
    """Return the longest beginning of the probe order that was tried altogether."""
    order = probe_order(sizes, seed)
    missing = ~np.isin(order, np.fromiter(tried, dtype=np.int64))
    return order[: int(np.argmax(missing)) if missing.any() else len(order)]
