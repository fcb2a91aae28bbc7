"""Does a search of a recorded table tell which axes matter? The whole table knows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import optuna
import typer
from scipy.stats import spearmanr

from benchmarks.tables import ProfileName, Seeds, TablePath, prior_of, searched
from studies.numerics.arrays import Matrix
from studies.replay.table import RecordedTable, read_table
from studies.samplers import goldilocks as surrogate_sampler
from studies.samplers.observations import Observations
from studies.sensitivity.analysis import LATENCY, MEMORY, Sensitivity, analyse
from studies.sensitivity.evidence import Evidence, log_numbers, references_of
from variants.device import DEVICE_PROFILES


def evidence(
    table: RecordedTable, observations: Observations, seed: int, prior: Matrix | None, profile: str
) -> Evidence:
    """Return what `observations` say of the table."""
    configurations = tuple(evaluation.configuration for evaluation in table.evaluations)
    first_rows = [table.catalogue.of_workload(n)[0] for n in range(len(table.catalogue.sizes))]
    return Evidence(
        table.catalogue,
        configurations,
        tuple(configurations[row].workload for row in first_rows),
        prior,
        observations,
        {index: number for number, index in enumerate(observations.tried)},
        {},
        references_of(table.catalogue, {}),
        DEVICE_PROFILES[profile].device.memory_bytes / 2**20,
        seed,
    )


def everything(table: RecordedTable) -> Observations:
    """Return what a sweep of the table is observations."""
    numbers = [log_numbers(evaluation) for evaluation in table.evaluations]
    values = {index: pair for index, pair in enumerate(numbers) if pair is not None}
    return Observations(values, frozenset(range(len(numbers))) - values.keys())


def beside(exact: Sensitivity, found: Sensitivity, name: str) -> tuple[float, int, int]:
    """Return the rank correlation of total effects, and how many intervals hold the truth."""
    truth = {share.axis: share.total.value for share in exact.objectives[name].shares}
    shares = found.objectives[name].shares
    correlation = spearmanr([truth[s.axis] for s in shares], [s.total.value for s in shares])[0]
    inside = sum(s.total.low <= truth[s.axis] <= s.total.high for s in shares)
    return float(correlation), inside, len(shares)


def main(
    table: TablePath, trials: int = 200, seeds: Seeds = 10, device_profile: ProfileName = "h100"
) -> None:
    """Compare what a search tells with the exact effects; then without probes and prior."""
    recorded = read_table(table)
    prior = prior_of(recorded, device_profile)
    exact = analyse(evidence(recorded, everything(recorded), 0, None, device_profile))
    for name in (MEMORY, LATENCY):
        listed = ", ".join(
            f"{share.axis} {share.total.value:.3f}" for share in exact.objectives[name].shares
        )
        print(f"exact total effects on {name}: {listed}", flush=True)
    found: dict[str, list[tuple[float, int, int]]] = {MEMORY: [], LATENCY: []}
    for seed in range(seeds):
        study, sampler = searched(recorded, seed, trials, lambda: prior)
        before = time.process_time()
        observations = sampler.observations(study)
        analysis = analyse(evidence(recorded, observations, seed, prior, device_profile))
        spent = time.process_time() - before
        for name, rows in found.items():
            objective = analysis.objectives[name]
            if objective.quality.refusal is not None:
                print(f"seed {seed} {name}: refused, {objective.quality.refusal}", flush=True)
                continue
            rows.append(beside(exact, analysis, name))
            correlation, inside, count = rows[-1]
            print(
                f"seed {seed} {name}: rank correlation {correlation:.3f}, {inside} of {count} "
                f"intervals hold the truth, {analysis.probes} probes, {spent:.1f} s of CPU",
                flush=True,
            )
    for name, rows in found.items():
        _say(name, rows, seeds)
    refused = _refused_without_probes(recorded, trials, seeds, device_profile)
    print(f"without probes and prior: {refused} of {2 * seeds} refused (wanted: all)")


def _say(name: str, rows: Sequence[tuple[float, int, int]], seeds: int) -> None:
    if not rows:
        print(f"{name}: refused every time")
        return
    correlations = [row[0] for row in rows]
    covered = sum(row[1] for row in rows) / sum(row[2] for row in rows)
    print(
        f"{name}: rank correlation {statistics.mean(correlations):.3f}, least "
        f"{min(correlations):.3f} (wanted: ≥ 0.9), {covered:.0%} of intervals hold the truth, "
        f"{len(rows)} of {seeds} seeds ranked"
    )


def _refused_without_probes(
    table: RecordedTable, trials: int, seeds: int, device_profile: str
) -> int:
    """Return how many objectives are refused of searches that an optimizer chose alone."""
    usual, refused = surrogate_sampler.PROBE_EVERY, 0
    surrogate_sampler.PROBE_EVERY = 10**9
    try:
        for seed in range(seeds):
            study, sampler = searched(table, seed, trials, None)
            observations = sampler.observations(study)
            found = analyse(evidence(table, observations, seed, None, device_profile))
            for name in (MEMORY, LATENCY):
                refused += found.objectives[name].quality.refusal is not None
    finally:
        surrogate_sampler.PROBE_EVERY = usual
    return refused


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    typer.run(main)
