"""Which estimator of host time repeats best? Bursts of samples in several processes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Burst:
    """Host times of a configuration, and what the host took for something fixed beside them."""

    key: str
    host_ms: list[float]
    yardstick_ms: float


def yardstick_ms(device: torch.device) -> float:
    """Return how long the host takes to launch fifty small operations: how fast it is now."""
    tensor, taken = torch.ones(1, device=device), []
    for _ in range(20):
        before = time.perf_counter_ns()
        for _ in range(50):
            tensor.add_(1)
        taken.append((time.perf_counter_ns() - before) / 1e6)
        if device.type == "cuda":
            torch.cuda.synchronize()
    return quantile_of(taken, 0.05)


def one_process(number: int, count: int, bursts: int, samples: int, minutes: float) -> list[Burst]:
    """Return bursts, the configurations visited in turns."""
    of = evaluator(0.1)
    device = torch.device(of.device.kind)
    runs = [Run(c, device, 0) for c in cases(of.device, count)]
    for run in runs:
        run.restart()
        first_visits(run, lambda results: None)
    found: list[Burst] = []
    for run in within((run for _ in range(bursts) for run in runs), minutes):
        taken: list[float] = []
        passes = None if of.stream is None else HeldPasses(run, of.stream)
        before = yardstick_ms(device)
        while len(taken) < samples:
            taken += later_visits(run) if passes is None else [s.host_ms for s in passes()]
        beside = (before + yardstick_ms(device)) / 2
        found.append(Burst(run.configuration.key, taken[:samples], beside))
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
    seen: dict[str, list[Burst]] = {}
    for number in range(processes):
        for burst in in_a_process(
            one_process, number, count, bursts, samples, minutes / processes
        ):
            seen.setdefault(burst.key, []).append(burst)
    repeated = [taken for taken in seen.values() if len(taken) > 1]
    beside = [spread([burst.yardstick_ms for burst in taken]) for taken in repeated]
    print(f"the yardstick itself: {statistics.median(beside):.1%}, {max(beside):.1%}")
    print("spread between bursts: median over configurations, and the largest; then the same of")
    print("times in units of the yardstick, which the host launched just before and after")
    for size in (16, 64, samples):
        for name, estimate in ESTIMATORS.items():
            plain = [spread([estimate(b.host_ms[:size]) for b in taken]) for taken in repeated]
            scaled = [
                spread([estimate(b.host_ms[:size]) / b.yardstick_ms for b in taken])
                for taken in repeated
            ]
            print(
                f"{size:>4} samples  {name:20} {statistics.median(plain):7.1%} {max(plain):7.1%}"
                f"   {statistics.median(scaled):7.1%} {max(scaled):7.1%}",
                flush=True,
            )


if __name__ == "__main__":
    typer.run(main)
