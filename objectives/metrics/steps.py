"""Wall times of single steps, cold and warm, and what a length costs that is new to a backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

from variants.layer.run import Run


def run_steps_cold(run: Run, keep: Callable[[Mapping[str, torch.Tensor]], None]) -> list[float]:
    """Run every step once, in order, waiting for each. Returns their wall times in ms.

    Cold: compilation, library plans and warm-up are in these times where nothing ran before.
    `keep` is given the results of each step.
    """
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


def run_steps_warm(run: Run) -> list[float]:
    """Run every step again from the start, waiting for each. Returns their wall times in ms."""
    run.restart()
    return run_steps_cold(run, lambda results: None)


def new_length_ms(first: list[float], later: list[float]) -> float | None:
    """Return what the first visit to a length costs, at least, beyond a later one.

    The fastest first visit less the slowest later one: a plan or a graph that is built for each
    length costs every one of them, a busy machine only some. The very first step is left out:
    compilation and warm-up are in it. None for a single step.
    """
    if len(first) < 2:
        return None
    return max(0.0, min(first[1:]) - max(later[1:]))
