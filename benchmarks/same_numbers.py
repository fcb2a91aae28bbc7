"""Do two studies of the same configurations hold the same numbers?"""

from __future__ import annotations

from collections.abc import Mapping

import optuna

from benchmarks.cases import say_spreads, spread
from objectives.schema.evaluation import Measurements, Outcome
from studies.results.results import read_results


def measured(study: optuna.Study) -> tuple[int, dict[str, Measurements]]:
    """Return how many trials were told, and the numbers of all that was measured, by key."""
    results = read_results(study)
    evaluations = [*results.defaults, *(trial.evaluation for trial in results.trials)]
    found = {
        one.configuration.key: one.measurements
        for one in evaluations
        if one.outcome is Outcome.MEASURED and one.measurements is not None
    }
    return len(results.trials), found


def compare(
    one: Mapping[str, Measurements], other: Mapping[str, Measurements], count: int
) -> None:
    """Print how the numbers of the first `count` common configurations differ."""
    common = [key for key in one if key in other][:count]
    gpu, host, same = [], [], 0
    for key in common:
        both = (one[key], other[key])
        gpus = [each.latency.gpu.value for each in both if each.latency.gpu is not None]
        hosts = [each.latency.host.value for each in both]
        peaks = [each.memory.peak_mib for each in both]
        gpu += [spread(gpus)] if len(gpus) == 2 else []
        host.append(spread(hosts))
        same += peaks[0] == peaks[1]
        shown = f"gpu {gpus[0]:.4f} {gpus[1]:.4f} ms  " if len(gpus) == 2 else ""
        print(
            f"{shown}host {hosts[0]:.4f} {hosts[1]:.4f} ms  peak {peaks[0]} {peaks[1]} MiB  {key}"
        )
    if gpu:
        say_spreads("gpu_ms", gpu, 0.02, None)
    if host:
        say_spreads("host_ms", host, 0.15, None)
    firsts = [
        sum(each[key].latency.first_step_ms for key in common) / 1e3 for each in (one, other)
    ]
    print(f"first steps, compilation included: {firsts[0]:.1f} s and {firsts[1]:.1f} s")
    print(f"peak bytes: the same in {same} of {len(common)} (wanted: all, of {count})")
