"""Steps as they come, waited for one by one: what first visits to a length cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

from variants.layer.run import Run


def first_visits(run: Run, keep: Callable[[Mapping[str, torch.Tensor]], None]) -> list[float]:
    """Run every step once, handing its results to `keep`. Returns wall times in ms."""
    cuda = run.layer.device.type == "cuda"
    walls = []
    for index in range(run.steps):
        before = time.perf_counter_ns()
        out = run.step(index)
        if cuda:
            torch.cuda.synchronize()
        walls.append((time.perf_counter_ns() - before) / 1e6)
        keep(run.results(out))
        del out
    return walls


def later_visits(run: Run) -> list[float]:
    """Run every step again from the start. Returns wall times in ms."""
    run.restart()
    return first_visits(run, lambda results: None)


def new_length_ms(first: list[float], later: list[float]) -> float | None:
    """Return what the first visit to a length costs, at least, beyond a later one.

    The fastest first visit less the slowest later one: a plan or a graph that is built for each
    length costs every one of them, a busy machine only some. The very first step is left out:
    compilation and warm-up are in it. None for a single step.
    """
    if len(first) < 2:
        return None
    return max(0.0, min(first[1:]) - max(later[1:]))
