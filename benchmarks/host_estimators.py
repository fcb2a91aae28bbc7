"""Which estimator of host time repeats best? Bursts of samples in several processes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch
import typer

from benchmarks.cases import Count, Minutes, cases, evaluator, in_a_process, spread, within
from objectives.latency import HeldPasses, first_visits, later_visits
from objectives.sampling import quantile_of
from variants.run import Run

Estimator = Callable[[Sequence[float]], float]


def _half_sample_mode(values: Sequence[float]) -> float:
    """Return the middle of the densest half, of its densest half, and so on."""
    ordered = sorted(values)
    while len(ordered) > 2:
        half = (len(ordered) + 1) // 2
        starts = range(len(ordered) - half + 1)
        start = min(starts, key=lambda i: ordered[i + half - 1] - ordered[i])
        ordered = ordered[start : start + half]
    return statistics.mean(ordered)


ESTIMATORS: dict[str, Estimator] = {
    "minimum": min,
    "2 %": lambda values: quantile_of(values, 0.02),
    "5 %": lambda values: quantile_of(values, 0.05),
    "10 %": lambda values: quantile_of(values, 0.10),
    "lower quartile": lambda values: quantile_of(values, 0.25),
    "median": statistics.median,
    "mean of lower half": lambda values: statistics.mean(sorted(values)[: len(values) // 2 + 1]),
    "half-sample mode": _half_sample_mode,
}


def one_process(
    number: int, count: int, bursts: int, samples: int, minutes: float
) -> list[tuple[str, list[float]]]:
    """Return bursts of host times by configuration, the configurations visited in turns."""
    of = evaluator(0.1)
    device = torch.device(of.device.kind)
    runs = [Run(c, device, 0) for c in cases(of.device, count)]
    for run in runs:
        run.restart()
        first_visits(run, lambda results: None)
    found = []
    for run in within((run for _ in range(bursts) for run in runs), minutes):
        taken: list[float] = []
        passes = None if of.stream is None else HeldPasses(run, of.stream)
        while len(taken) < samples:
            taken += later_visits(run) if passes is None else [s.host_ms for s in passes()]
        found.append((run.configuration.key, taken[:samples]))
    print(f"process {number}: {len(found)} bursts of {samples}", flush=True)
    return found


def main(
    count: Count = 12,
    processes: int = 3,
    bursts: int = 4,
    samples: int = 256,
    minutes: Minutes = 9.0,
) -> None:
    """Print how far each estimator differs between bursts, by the number of samples it gets."""
    seen: dict[str, list[list[float]]] = {}
    for number in range(processes):
        for key, taken in in_a_process(
            one_process, number, count, bursts, samples, minutes / processes
        ):
            seen.setdefault(key, []).append(taken)
    repeated = [taken for taken in seen.values() if len(taken) > 1]
    print("spread between bursts: median over configurations, and the largest")
    for size in (16, 64, samples):
        for name, estimate in ESTIMATORS.items():
            spreads = [spread([estimate(burst[:size]) for burst in taken]) for taken in repeated]
            print(
                f"{size:>4} samples  {name:20} {statistics.median(spreads):7.1%} "
                f"{max(spreads):7.1%}",
                flush=True,
            )


if __name__ == "__main__":
    typer.run(main)
