"""Which estimator of host time repeats best? Bursts of samples in several processes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch
import typer

from benchmarks.cases import Count, Minutes, cases, evaluator, in_a_process, spread, within
from objectives.cores import Cores
from objectives.latency import (
    HeldPasses,
    HeldStream,
    StepTime,
    first_visits,
    host_times,
    later_visits,
    on_full_core,
)
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


Burst = tuple[str, bool, list[float]]  # of a configuration, whether on full cores, host times


def one_process(number: int, count: int, bursts: int, samples: int, minutes: float) -> list[Burst]:
    """Return bursts, the configurations visited in turns, each where it is and on full cores."""
    of = evaluator(0.1)
    runs = [Run(c, torch.device(of.device.kind), 0) for c in cases(of.device, count)]
    for run in runs:
        run.restart()
        first_visits(run, lambda results: None)
    found: list[Burst] = []
    for run in within((run for _ in range(bursts) for run in runs), minutes):
        found.append((run.configuration.key, False, _burst(run, of.stream, samples)))
        if of.cores is not None:
            with of.cores:
                found.append(
                    (run.configuration.key, True, _burst(run, of.stream, samples, of.cores))
                )
    print(f"process {number}: {len(found)} bursts of {samples}", flush=True)
    return found


def _burst(
    run: Run, stream: HeldStream | None, samples: int, cores: Cores | None = None
) -> list[float]:
    """Return host times; on `cores` as of full speed, fewer or none where cores are not."""
    if stream is None:
        passes = range(-(-samples // run.steps))
        return [ms for _ in passes for ms in later_visits(run)][:samples]
    held, taken = HeldPasses(run, stream), list[StepTime]()
    while sum(step.full for step in taken) < samples and len(taken) < 4 * samples:
        taken += held() if cores is None else on_full_core(held, cores)
    return host_times(taken)[:samples]


def main(
    count: Count = 12,
    processes: int = 3,
    bursts: int = 4,
    samples: int = 256,
    minutes: Minutes = 9.0,
) -> None:
    """Print how far each estimator differs between bursts, by the number of samples it gets."""
    seen: dict[bool, dict[str, list[list[float]]]] = {False: {}, True: {}}
    for number in range(processes):
        for key, full, taken in in_a_process(
            one_process, number, count, bursts, samples, minutes / processes
        ):
            seen[full].setdefault(key, []).append(taken)
    print("spread between bursts: median over configurations, and the largest")
    for full, where in ((False, "wherever the thread is"), (True, "on cores at full speed")):
        least = min(samples, 96)
        enough = [[one for one in taken if len(one) >= least] for taken in seen[full].values()]
        repeated = [taken for taken in enough if len(taken) > 1]
        if not repeated:  # on a CPU, which is all timed, nothing is moved
            continue
        print(where)
        for size in (16, 96, samples):
            for name, estimate in ESTIMATORS.items():
                spreads = [spread([estimate(one[:size]) for one in taken]) for taken in repeated]
                print(
                    f"{size:>4} samples  {name:20} {statistics.median(spreads):7.1%} "
                    f"{max(spreads):7.1%}",
                    flush=True,
                )


if __name__ == "__main__":
    typer.run(main)
