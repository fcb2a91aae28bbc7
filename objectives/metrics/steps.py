"""Wall times of single steps, cold and warm, and what a length costs that is new to a backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from objectives.metrics.accuracy import TimedOutputs
from objectives.metrics.compilations import Compilations
from variants.device import DeviceKind
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


class FirstVisits(NamedTuple):
    """Every step of a run when it was run for the first time."""

    walls_ms: list[float]
    compiled: list[bool]  # whether PyTorch's compiler ran in it


def visit_first(run: Run, keep: Callable[[Mapping[str, Tensor]], None]) -> FirstVisits:
    """Run every step of a new run once, handing its results to `keep`."""
    counts = [0]
    with Compilations() as compilations:

        def kept(results: Mapping[str, Tensor]) -> None:
            counts.append(compilations.count)
            keep(results)

        walls_ms = run_steps_cold(run, kept)
    return FirstVisits(walls_ms, [after > before for before, after in pairwise(counts)])


def new_length_ms(first: FirstVisits, later: Sequence[float], kind: DeviceKind) -> float | None:
    """Return what the first visit to a length costs, at least, beyond a later one, in ms.

    The fastest first visit less the slowest later one: a plan or a graph that is built for each
    length costs every one of them, a busy machine only some. The very first step is left out:
    compilation and warm-up are in it. On a CPU only the compiler makes a new length cost anything:
    where it did not run at each, nothing did. None for a single step.
    """
    if len(first.walls_ms) < 2:
        return None
    if kind == "cpu" and not all(first.compiled[1:]):
        return 0.0
    return max(0.0, min(first.walls_ms[1:]) - max(later[1:]))
