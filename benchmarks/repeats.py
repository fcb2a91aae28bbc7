"""Whole trials, again in other orders and processes: do GPU time, host time and bound repeat?"""

from __future__ import annotations

import random

import typer

from benchmarks.cases import (
    Count,
    Minutes,
    cases,
    evaluator,
    in_a_process,
    say_spreads,
    spread,
    within,
)
from objectives.evaluation import Latency


def one_process(number: int, count: int, orders: int, minutes: float) -> list[tuple[str, Latency]]:
    """Return the latency of each trial by the key of its configuration."""
    of = evaluator(0.4)
    rng = random.Random(number)
    chosen = cases(of.device, count)
    trials = []
    for _ in range(orders):
        rng.shuffle(chosen)
        trials += chosen
    found = []
    for configuration in within(trials, minutes):
        evaluation = of.evaluate(configuration)
        if evaluation.measurements is None:
            print(f"process {number}  {evaluation.outcome}: {evaluation.reason}", flush=True)
            continue
        latency = evaluation.measurements.latency
        gpu = "" if latency.gpu is None else f"gpu {latency.gpu.value:.4f} ms  "
        conditions = evaluation.measurements.conditions
        if conditions is not None and conditions.sm_mhz is not None:
            gpu += f"{conditions.sm_mhz[0]} MHz  "
        print(
            f"process {number}  {gpu}host {latency.host.value:.4f} ms  {latency.bound}  "
            f"{latency.host.count} samples  {configuration.key}",
            flush=True,
        )
        found.append((configuration.key, latency))
    return found


def main(count: Count = 44, orders: int = 3, processes: int = 2, minutes: Minutes = 9.0) -> None:
    """Evaluate each configuration some times in shuffled orders in each of some processes."""
    seen: dict[str, list[Latency]] = {}
    for number in range(processes):
        for key, latency in in_a_process(one_process, number, count, orders, minutes / processes):
            seen.setdefault(key, []).append(latency)
    repeated = {key: taken for key, taken in seen.items() if len(taken) > 1}
    if not repeated:
        print("nothing was measured twice: give it more minutes or a smaller --count")
        return
    for bound in ("gpu", "host"):
        gpu = [
            spread([one.gpu.value for one in taken if one.gpu is not None])
            for taken in repeated.values()
            if taken[0].gpu is not None and taken[0].bound == bound
        ]
        if gpu:
            say_spreads(f"gpu_ms of those that the {bound} binds", gpu, 0.03, 0.015)
    host = [spread([one.host.value for one in taken]) for taken in repeated.values()]
    say_spreads("host_ms", host, 0.15, None)
    flips = [taken for taken in repeated.values() if len({one.bound for one in taken}) > 1]
    far = sum(max(_apart(one) for one in taken) > 0.2 for taken in flips)
    print(f"bound flips: {len(flips)} of {len(repeated)}, {far} where the two are 20 % apart")


def _apart(latency: Latency) -> float:
    if latency.gpu is None:
        return 0.0
    return spread([latency.gpu.value, latency.host.value])


if __name__ == "__main__":
    typer.run(main)
