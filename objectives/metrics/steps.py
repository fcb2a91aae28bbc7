"""Wall times of single steps, cold and warm, and what a length costs that is new to a backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from objectives.metrics.accuracy import TimedOutputs
from variants.layer.run import Run


def run_steps_cold(run: Run, keep: Callable[[Mapping[str, Tensor]], None]) -> list[float]:
    """Run every step once, in order, waiting for each. Returns their wall times in ms.

    Cold: compilation, library plans and warm-up are in these times where nothing ran before.
    `keep` is given the results of each step.
    """
    return _walls_ms(run, run.step, lambda index, out: keep(run.results(out)))


def run_steps_warm(run: Run, outputs: TimedOutputs | None = None) -> list[float]:
    """Run every step again from the start, waiting for each. Returns their wall times in ms.

    What the steps return is kept in `outputs`, if given.
    """
    run.restart()
    if outputs is None:
        return run_steps_cold(run, lambda results: None)
    return _walls_ms(run, outputs.step, lambda index, out: outputs.keep(index))


def _walls_ms(
    run: Run, step: Callable[[int], Any], after: Callable[[int, Any], None]
) -> list[float]:
    """Call `step` for each step, and `after` it, untimed, with what it returned."""
    cuda = run.layer.device.type == "cuda"
    walls = []
    for index in range(run.steps):
        before = time.perf_counter_ns()
        out = step(index)
        if cuda:
            torch.cuda.synchronize()
        walls.append((time.perf_counter_ns() - before) / 1e6)
        after(index, out)
        del out
    return walls


def new_length_ms(first: list[float], later: list[float]) -> float | None:
    """Return what the first visit to a length costs, at least, beyond a later one.

    The fastest first visit less the slowest later one: a plan or a graph that is built for each
    length costs every one of them, a busy machine only some. The very first step is left out:
    compilation and warm-up are in it. None for a single step.
    """
    if len(first) < 2:
        return None
    return max(0.0, min(first[1:]) - max(later[1:]))
