"""Beside triton.testing.do_bench on the same callables: the same medians, and whose are steadier?

Needs CUDA and triton.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch
import typer

from benchmarks.cases import Minutes, evaluator, kind_here, spread, within
from objectives.evaluate import Evaluator
from objectives.latency import HeldPasses, first_visits
from variants.configuration import Configuration
from variants.run import Run
from variants.support import unsupported_reasons
from variants.workload import Phase, Workload

REPEATS = 5


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
    times = [step.gpu_ms for _ in range(60) for step in passes()]
    return statistics.median(times)


def _theirs(run: Run) -> float:
    from triton.testing import do_bench

    def all_steps() -> None:
        run.restart()
        for index in range(run.steps):
            run.step(index)

    median: float = do_bench(all_steps, warmup=50, rep=300, return_mode="median")
    return median / run.steps


def _compared(of: Evaluator, configuration: Configuration) -> tuple[list[float], list[float]]:
    """Return repeats of our median and of do_bench's, of one step in ms."""
    run = Run(configuration, torch.device("cuda"), 0)
    for _ in range(3):
        first_visits(run, lambda results: None)
        run.restart()
    ours = [_ours(of, run) for _ in range(REPEATS)]
    theirs = [_theirs(run) for _ in range(REPEATS)]
    return ours, theirs


def _say(
    of: Evaluator, configurations: Iterator[Configuration], *, least_ms: float, most: int
) -> list[float]:
    """Print each comparison of steps of `least_ms` and more, and return the ratios."""
    ratios: list[float] = []
    for configuration in configurations:
        if unsupported_reasons(configuration, of.device) or len(ratios) == most:
            continue
        ours, theirs = _compared(of, configuration)
        of.free(compiled=False)
        our, their = statistics.median(ours), statistics.median(theirs)
        if their >= least_ms:
            ratios.append(our / their)
            print(
                f"ours {our:.4f} ms (spread {spread(ours):.1%})  do_bench {their:.4f} ms (spread "
                f"{spread(theirs):.1%})  ratio {our / their:.4f}  {configuration.key}",
                flush=True,
            )
    return ratios


def main(count: int = 20, minutes: Minutes = 9.0) -> None:
    """Time prefill of 0.3 ms and more both ways, and five launch-bound decode steps."""
    if kind_here() == "cpu":
        print("do_bench needs a CUDA device: nothing is compared")
        return
    of = evaluator(0.4)
    print(f"medians of {REPEATS} repeats, cold L2 both; ratio: ours / do_bench's", flush=True)
    ratios = _say(of, within(_prefill(), minutes / 2), least_ms=0.3, most=count)
    agree = sum(abs(ratio - 1) <= 0.02 for ratio in ratios)
    print(f"{agree} of {len(ratios)} GPU-bound ratios within 2 % (wanted: all)")
    print("launch-bound, where do_bench times the host:", flush=True)
    _say(of, within(_launch_bound(), minutes / 2), least_ms=0.0, most=5)


if __name__ == "__main__":
    typer.run(main)
