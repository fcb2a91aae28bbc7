"""Beside triton.testing.do_bench on the same callables: the same medians, and whose are steadier?

Needs CUDA and triton.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import typer

from benchmarks.cases import Minutes, evaluator, kind_here, spread, within
from objectives.metrics.steps import run_steps_cold
from objectives.timing.passes import HeldPasses, gpu_ms_of_passes
from objectives.trial.evaluator import Evaluator
from variants.configuration import Configuration
from variants.layer.run import Run
from variants.support import unsupported_reasons
from variants.workload import Phase, Workload

REPEATS = 5


@dataclass(frozen=True, slots=True)
class _Compared:
    """Repeats of our median and of do_bench's, of one step in ms, and do_bench's with rests."""

    ours: list[float]
    theirs: list[float]
    rested: float

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.theirs)

    @property
    def ratio_to_rested(self) -> float:
        return statistics.median(self.ours) / self.rested


def _prefill() -> Iterator[Configuration]:
    for batch, seq_len in ((1, 8192), (4, 4096), (8, 2048), (2, 16384), (16, 4096)):
        workload = Workload(phase=Phase.PREFILL, batch=batch, seq_len=seq_len, q_heads=16)
        for backend in ("flash", "cudnn", "efficient"):
            for precision in ("bf16", "fp16"):
                yield Configuration.of(workload, {"backend": backend, "precision": precision})


def _launch_bound() -> Iterator[Configuration]:
    for backend in ("flash", "cudnn", "efficient", "math", "eager"):
        workload = Workload(batch=1, seq_len=512, q_heads=16)
        chosen = {"backend": backend, "precision": "bf16", "cache": "static"}
        yield Configuration.of(workload, chosen)


def _ours(of: Evaluator, run: Run) -> float:
    assert of.stream is not None
    passes = HeldPasses(run, of.stream)
    of.stream.warm()
    return statistics.median(gpu_ms_of_passes([step for _ in range(60) for step in passes()]))


def _theirs(run: Run, *, warmup: int = 50, rep: int = 300) -> float:
    from triton.testing import do_bench

    def all_steps() -> None:
        run.restart()
        for index in range(run.steps):
            run.step(index)

    median: float = do_bench(all_steps, warmup=warmup, rep=rep, return_mode="median")
    return median / run.steps


def _theirs_rested(run: Run) -> float:
    """Return the median of short calls with rests: the GPU stays below its power limit."""
    medians = []
    for _ in range(11):
        time.sleep(0.05)
        medians.append(_theirs(run, warmup=1, rep=4))
    return statistics.median(medians)


def _compared(of: Evaluator, configuration: Configuration) -> _Compared:
    """Time both in repeats."""
    run = Run(configuration, torch.device("cuda"), 0)
    for _ in range(3):
        run_steps_cold(run, lambda results: None)
        run.restart()
    ours = [_ours(of, run) for _ in range(REPEATS)]
    theirs = [_theirs(run) for _ in range(REPEATS)]
    return _Compared(ours, theirs, _theirs_rested(run))


def _say(
    of: Evaluator, configurations: Iterator[Configuration], *, least_ms: float, most: int
) -> list[_Compared]:
    """Print and return the comparisons of steps of `least_ms` and more."""
    found: list[_Compared] = []
    for configuration in configurations:
        if unsupported_reasons(configuration, of.device) or len(found) == most:
            continue
        one = _compared(of, configuration)
        of.free(compiled=False)
        their = statistics.median(one.theirs)
        if their >= least_ms:
            found.append(one)
            print(
                f"ours {statistics.median(one.ours):.4f} ms (spread {spread(one.ours):.1%})  "
                f"do_bench {their:.4f} ms (spread {spread(one.theirs):.1%})  ratio "
                f"{one.ratio:.4f}, with rests {one.ratio_to_rested:.4f}  {configuration.key}",
                flush=True,
            )
    return found


def main(count: int = 20, minutes: Minutes = 9.0) -> None:
    """Time prefill of 0.3 ms and more both ways, and five launch-bound decode steps."""
    if kind_here() == "cpu":
        print("do_bench needs a CUDA device: nothing is compared")
        return
    of = evaluator(0.4)
    print(f"medians of {REPEATS} repeats, cold L2 both; ratio: ours / do_bench's", flush=True)
    found = _say(of, within(_prefill(), minutes / 2), least_ms=0.3, most=count)
    for what, ratios in (
        ("", [one.ratio for one in found]),
        ("to do_bench with rests ", [one.ratio_to_rested for one in found]),
    ):
        agree = sum(abs(ratio - 1) <= 0.02 for ratio in ratios)
        print(f"{agree} of {len(found)} GPU-bound ratios {what}within 2 % (wanted: all)")
    print("launch-bound, where do_bench times the host:", flush=True)
    _say(of, within(_launch_bound(), minutes / 2), least_ms=0.0, most=5)


if __name__ == "__main__":
    typer.run(main)
