"""The replay command: samplers against a recorded table, without a GPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from search.options.choices import UsageError
from search.views.terminal import make_console
from search.views.workers_view import (
    Courses,
    page_of,
    print_workers,
    run_workers,
    workers_document,
)
from studies.replay.durations import Durations, durations_of
from studies.replay.replay import Score, comparison
from studies.replay.replay import replay as replay_search
from studies.replay.table import RecordedTable, TableError, read_table
from studies.samplers.samplers import OWN, SAMPLERS
from variants.device import DEVICE_PROFILES, Device

console = make_console()


def replay(
    table: Annotated[Path, typer.Argument(metavar="TABLE.csv", help="A recorded table.")],
    sampler: Annotated[
        str, typer.Option(metavar="A,B", help=f"Any of {', '.join(SAMPLERS)}.")
    ] = OWN,
    trials: Annotated[
        str, typer.Option(metavar="N,N", help="Budgets, in configurations tried.")
    ] = "25,50,100,200",
    seeds: Annotated[int, typer.Option(min=1, help="Searches for each sampler.")] = 5,
    device_profile: Annotated[
        str, typer.Option(help=f"The prior's device: {', '.join(DEVICE_PROFILES)}.")
    ] = "h100",
    prior: Annotated[bool, typer.Option(help="Start from what the roofline expects.")] = True,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Plot scores against trials, or wall time if asked for."
        ),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(metavar="N,N", help="Also: score against wall time, of so many GPUs."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score searches on a recorded table: how soon do they find what measuring all would?"""
    names = _names(sampler)
    budgets = _integers("--trials", trials)
    counts = [] if workers is None else _integers("--workers", workers)
    if device_profile not in DEVICE_PROFILES:
        raise UsageError(
            f"--device-profile must be one of {', '.join(DEVICE_PROFILES)}; got {device_profile}"
        )
    device = DEVICE_PROFILES[device_profile].device if prior else None
    recorded = read_table(table)
    durations = _durations(table, recorded) if counts else None
    scores = _scores(recorded, names, budgets, seeds, device)
    courses: Courses = {}
    if durations is not None:
        courses = run_workers(recorded, durations, names, counts, seeds, budgets[-1], device)
    if html is not None:
        title = f"{table.name}, {seeds} seeds"
        _write(html, page_of(courses, title) if courses else _page(budgets, scores, title))
    if as_json:
        document: dict[str, Any] = {
            "table": str(table),
            "samplers": {name: _summary(runs, budgets) for name, runs in scores.items()},
        }
        if durations is not None:
            document["workers"] = workers_document(courses, durations)
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    size, workloads = len(recorded.catalogue), len(recorded.catalogue.sizes)
    console.print(f"{table}: {size} configurations of {workloads} workloads, {seeds} seeds")
    if recorded.unknown:
        console.print(f"taken as axes, unknown here: {', '.join(recorded.unknown)}")
    _print(console, {name: _summary(runs, budgets) for name, runs in scores.items()})
    if durations is not None:
        print_workers(console, courses, durations)


def _durations(path: Path, recorded: RecordedTable) -> Durations:
    try:
        return durations_of(recorded)
    except TableError as error:
        raise UsageError(f"--workers needs times, but in {path} {error}") from None


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in SAMPLERS:
            raise UsageError(f"--sampler must be among {', '.join(SAMPLERS)}; got {name}")
    return names


def _scores(
    recorded: RecordedTable,
    names: Sequence[str],
    budgets: Sequence[int],
    seeds: int,
    device: Device | None,
) -> dict[str, list[list[Score]]]:
    """Return the scores of each sampler, by seed and budget."""
    scores: dict[str, list[list[Score]]] = {name: [] for name in names}
    with Progress(console=make_console(stderr=True), transient=True) as progress:
        task = progress.add_task("replaying", total=len(names) * seeds * len(budgets))
        for name, runs in scores.items():
            for seed in range(seeds):
                runs.append([])
                for score in replay_search(recorded, name, seed, budgets, device):
                    runs[-1].append(score)
                    progress.advance(task)
    return scores


def _page(
    budgets: Sequence[int], scores: Mapping[str, Sequence[Sequence[Score]]], title: str
) -> str:
    curves = {
        name: np.array([[score.dispatch for score in run] for run in runs])
        for name, runs in scores.items()
    }
    page: str = comparison(budgets, curves, title).to_html(include_plotlyjs=True)
    return page


def _write(path: Path, page: str) -> None:
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--html must be a file that can be written: {error}") from None


def _integers(option: str, text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    digits = all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts)
    if not digits or not all(map(int, parts)):
        raise UsageError(f"{option} must be positive integers, got {text}")
    return sorted({int(part) for part in parts})


def _summary(runs: Sequence[Sequence[Score]], budgets: Sequence[int]) -> Mapping[str, Any]:
    """Return lists by budget, of means over seeds unless the name says otherwise."""
    columns = list(zip(*runs, strict=True))

    def mean(name: str) -> list[float]:
        return [float(np.mean([getattr(score, name) for score in column])) for column in columns]

    return {
        "trials": list(budgets),
        "dispatch_score": mean("dispatch"),
        "dispatch_score_min": [min(score.dispatch for score in column) for column in columns],
        "global_score": mean("overall"),
        "latency_regret": mean("latency_regret"),
        "seconds_per_ask": mean("seconds_per_ask")[-1],
    }


def _print(console: Console, summaries: Mapping[str, Mapping[str, Any]]) -> None:
    table = Table(title="share of what measuring everything finds", title_justify="left")
    table.add_column("sampler")
    for heading in ("trials", "dispatch score", "lowest", "global", "latency regret", "s an ask"):
        table.add_column(heading, justify="right")
    for name, summary in summaries.items():
        for row, trials in enumerate(summary["trials"]):
            regret = summary["latency_regret"][row]
            table.add_row(
                name if row == 0 else "",
                str(trials),
                f"{summary['dispatch_score'][row]:.4f}",
                f"{summary['dispatch_score_min'][row]:.4f}",
                f"{summary['global_score'][row]:.4f}",
                f"{regret:.1%}" if regret < 10 else f"{regret:.0f}×",
                f"{summary['seconds_per_ask']:.3f}" if row == 0 else "",
            )
        table.add_section()
    console.print(table)
    console.print(
        "dispatch score: mean over workloads of the hypervolume found, as a share of the "
        "exhaustive one, in log10 of bytes and milliseconds. lowest: of all seeds. latency "
        "regret: how much slower than the workload's fastest the fastest found is, on average; a "
        "workload without a measurement counts as its slowest.",
        style="dim",
    )
