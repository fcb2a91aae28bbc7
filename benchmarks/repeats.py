"""Whole trials, again in other orders and processes: do GPU time, host time and bound repeat?"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable, Iterator, Mapping

import typer

from benchmarks.cases import (
    Count,
    Minutes,
    cases,
    compiled_cases,
    evaluator,
    in_a_process,
    say_spreads,
    spread,
    within,
)
from objectives.schema.evaluation import Latency
from objectives.timing.host_scaling import host_scale


def one_process(
    number: int, count: int, compiled: int, orders: int, minutes: float
) -> list[tuple[str, Latency]]:
    """Return the latency of each trial by the key of its configuration."""
    of = evaluator(0.4)
    rng = random.Random(number)
    chosen = cases(of.device, count) + compiled_cases(of.device, compiled)
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
            f"yardstick {latency.yardstick_ms or 0:.4f} ms  "
            f"{latency.host.count} samples  {configuration.key}",
            flush=True,
        )
        found.append((configuration.key, latency))
    return found


def main(
    count: Count = 44,
    compiled: int = 8,
    orders: int = 3,
    processes: int = 2,
    minutes: Minutes = 9.0,
) -> None:
    """Evaluate each configuration some times in shuffled orders in each of some processes.

    Beside `count` of them, `compiled` whose layer is compiled.
    Host times are compared as of the same host, as they are in a study.
    """
    seen: dict[str, list[Latency]] = {}
    apart: list[Mapping[str, list[Latency]]] = []
    usual_ms = None
    for number in range(processes):
        found = in_a_process(one_process, number, count, compiled, orders, minutes / processes)
        usual_ms = usual_ms or usual_yardstick_ms(found)
        apart.append(by_key(at_speed(found, usual_ms)))
        for key, taken in apart[-1].items():
            seen.setdefault(key, []).extend(taken)
    repeated = {key: taken for key, taken in seen.items() if len(taken) > 1}
    if not repeated:
        print("nothing was measured twice: give it more minutes or a smaller --count")
        return
    gpu = {
        key: spread([one.gpu.value for one in taken if one.gpu is not None])
        for key, taken in repeated.items()
        if taken[0].gpu is not None
    }
    for bound in ("gpu", "host"):
        bound_by = [each for key, each in gpu.items() if repeated[key][0].bound == bound]
        if bound_by:
            say_spreads(f"gpu_ms of those that the {bound} binds", bound_by, 0.03, None)
    by_inductor = [each for key, each in gpu.items() if key.endswith("compiled")]
    if by_inductor:
        say_spreads("gpu_ms of compiled layers", by_inductor, 0.03, None)
    if gpu:
        say_spreads("gpu_ms of all", list(gpu.values()), 0.03, 0.015)
    for number in range(1, processes):
        say_shift(number, apart[0], apart[number])
    host = [spread([one.host.value for one in taken]) for taken in repeated.values()]
    say_spreads("host_ms", host, 0.15, None)
    flips = [taken for taken in repeated.values() if len({one.bound for one in taken}) > 1]
    far = sum(max(_apart(one) for one in taken) > 0.2 for taken in flips)
    print(f"bound flips: {len(flips)} of {len(repeated)}, {far} where the two are 20 % apart")


def usual_yardstick_ms(found: Iterable[tuple[str, Latency]]) -> float | None:
    """Return what the yardstick usually takes; None on a CPU."""
    taken = [one.yardstick_ms for _, one in found if one.yardstick_ms is not None]
    return statistics.median(taken) if taken else None


def at_speed(
    found: Iterable[tuple[str, Latency]], usual_ms: float | None
) -> Iterator[tuple[str, Latency]]:
    """Yield the latencies as of a host on which the yardstick takes `usual_ms`."""
    for key, latency in found:
        if usual_ms is None or latency.yardstick_ms is None:
            yield key, latency
        else:
            yield key, latency.at_host_speed(host_scale(latency.yardstick_ms, usual_ms))


def by_key(found: Iterable[tuple[str, Latency]]) -> dict[str, list[Latency]]:
    """Return all latencies of each configuration."""
    taken: dict[str, list[Latency]] = {}
    for key, latency in found:
        taken.setdefault(key, []).append(latency)
    return taken


def say_shift(
    number: int, first: Mapping[str, list[Latency]], other: Mapping[str, list[Latency]]
) -> None:
    """Say how much slower another process measures everything than the first one did."""
    for name, time_of in (("gpu_ms", _gpu_ms), ("host_ms", _host_ms)):
        ratios = [
            statistics.median(map(time_of, other[key])) / statistics.median(map(time_of, taken))
            for key, taken in first.items()
            if key in other and (name == "host_ms" or taken[0].gpu is not None)
        ]
        if ratios:
            print(
                f"{name} of process {number} over that of process 0: median "
                f"{statistics.median(ratios):.4f}, {min(ratios):.4f} to {max(ratios):.4f}"
            )


def _gpu_ms(latency: Latency) -> float:
    assert latency.gpu is not None
    return latency.gpu.value


def _host_ms(latency: Latency) -> float:
    return latency.host.value


def _apart(latency: Latency) -> float:
    if latency.gpu is None:
        return 0.0
    return spread([latency.gpu.value, latency.host.value])


if __name__ == "__main__":
    typer.run(main)
