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

from studies.space import Survey

Pair = tuple[str, str]  # keys of a workload and of one of its variants


def pairs_of(survey: Survey) -> list[Pair]:
    """Return every possible configuration as keys, workload by workload."""
    return [
        (workload.key, variant.key)
        for workload in survey.workloads
        for variant in survey.possible[workload.key]
    ]


def probe_order(survey: Survey, seed: int) -> NDArray[np.int64]:
    """Return the order in which probes are taken, as indexes into `pairs_of`.

    Systematic sampling from a shuffled list: any beginning holds of each workload its share,
    drawn at random.
    """
    rng = np.random.default_rng((seed, 0x9B0BE))
    places = []
    for workload in survey.workloads:
        size = len(survey.possible[workload.key])
        places.append((rng.permutation(size) + rng.random()) / max(1, size))
    return np.argsort(np.concatenate(places), kind="stable")


def probed(survey: Survey, seed: int, tried: Collection[Pair]) -> list[Pair]:
    """Return the longest beginning of the probe order that was tried altogether."""
    pairs = pairs_of(survey)
    found: list[Pair] = []
    for index in probe_order(survey, seed):
        if pairs[index] not in tried:
            break
        found.append(pairs[index])
    return found
