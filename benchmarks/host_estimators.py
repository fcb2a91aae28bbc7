"""Which estimator of host time repeats best? Bursts of samples in several processes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch
import typer

from benchmarks.cases import Count, Minutes, cases, evaluator, in_a_process, spread, within
from objectives.metrics.steps import run_steps_cold, run_steps_warm
from objectives.timing.host_scaling import host_scale
from objectives.timing.passes import HeldPasses, StepTime, for_host, on_full_core
from objectives.timing.sampling import quantile_of
from objectives.trial.evaluator import Evaluator
from variants.layer.run import Run

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


# What a burst's host time is divided by: what stands for the yardsticks beside its steps.
DIVISORS: dict[str, Estimator] = {
    "as it is": lambda values: 1.0,
    "by its yardstick, 5 %": lambda values: quantile_of(values, 0.05),
    "by its yardstick, 10 %": lambda values: quantile_of(values, 0.10),
    "by its yardstick, lower quartile": lambda values: quantile_of(values, 0.25),
    "by its yardstick, median": statistics.median,
}

Burst = tuple[str, list[StepTime]]  # of a configuration


def one_process(number: int, count: int, bursts: int, samples: int, minutes: float) -> list[Burst]:
    """Return bursts, the configurations visited in turns."""
    of = evaluator(0.1)
    runs = [Run(c, torch.device(of.device.kind), 0) for c in cases(of.device, count)]
    for run in runs:
        run.restart()
        run_steps_cold(run, lambda results: None)
    found: list[Burst] = []
    for run in within((run for _ in range(bursts) for run in runs), minutes):
        found.append((run.configuration.key, _burst(run, of, samples)))
    print(f"process {number}: {len(found)} bursts of {samples}", flush=True)
    return found


def _burst(run: Run, of: Evaluator, samples: int) -> list[StepTime]:
    if of.stream is None:  # a CPU, which is all timed
        passes = range(-(-samples // run.steps))
        return [StepTime(ms, ms) for _ in passes for ms in run_steps_warm(run)][:samples]
    held, taken = HeldPasses(run, of.stream, of.stream.host_reference), list[StepTime]()
    with of.stream.cores as cores:
        while len(for_host(taken)) < samples:
            taken += on_full_core(held, cores)
    return for_host(taken)[:samples]


def main(
    count: Count = 12,
    processes: int = 3,
    bursts: int = 4,
    samples: int = 256,
    minutes: Minutes = 9.0,
) -> None:
    """Print how far each estimator differs between bursts, by the number of samples it gets."""
    seen: dict[str, list[list[StepTime]]] = {}
    for number in range(processes):
        for key, taken in in_a_process(
            one_process, number, count, bursts, samples, minutes / processes
        ):
            seen.setdefault(key, []).append(taken)
    repeated = [taken for taken in seen.values() if len(taken) > 1]
    if not repeated:
        print("nothing was measured twice: give it more minutes or a smaller --count")
        return
    print("spread between bursts: median over configurations, and the largest")
    measured = all(step.reference_ms is not None for step in repeated[0][0])
    for divided, divisor in DIVISORS.items() if measured else [("as it is", DIVISORS["as it is"])]:
        for size in (64, 128, samples):
            for name, estimate in ESTIMATORS.items():
                spreads = [
                    spread([_estimated(one[:size], estimate, divisor) for one in taken])
                    for taken in repeated
                ]
                print(
                    f"{divided:32} {size:>4} samples  {name:20} "
                    f"{statistics.median(spreads):7.1%} {max(spreads):7.1%}",
                    flush=True,
                )


def _estimated(taken: Sequence[StepTime], estimate: Estimator, divisor: Estimator) -> float:
    by = divisor([step.reference_ms or 0.0 for step in taken])
    return estimate([step.host_ms for step in taken]) * host_scale(by, 1.0)


if __name__ == "__main__":
    typer.run(main)
