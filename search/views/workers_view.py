"""Score against wall time for numbers of workers, as `search replay --workers` shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import Progress

from search.views.layout import NONE, make_table, print_note
from search.views.terminal import make_console
from studies.replay.durations import Durations
from studies.replay.replay import Scorer
from studies.replay.scaling import (
    TARGETS,
    Course,
    Scaling,
    course_of,
    scaling_of,
    speed_ups,
    wall_time_figure,
)
from studies.replay.simulation import ASKS, SimulatedTrial, replay_in_virtual_time
from studies.replay.table import RecordedTable
from studies.results.labels import duration
from variants.device import Device

Courses = Mapping[str, Mapping[int, Sequence[Course]]]  # by sampler and number of workers


def run_workers(
    table: RecordedTable,
    durations: Durations,
    names: Sequence[str],
    counts: Sequence[int],
    seeds: int,
    trials: int,
    device: Device | None,
) -> Courses:
    """Search the table with each sampler and number of workers, so many trials in all."""
    courses: dict[str, dict[int, list[Course]]] = {n: {c: [] for c in counts} for n in names}
    scorer, trials = Scorer(table), min(trials, len(table.catalogue))
    with Progress(console=make_console(stderr=True), transient=True) as progress:
        task = progress.add_task(
            "in virtual time", total=len(names) * len(counts) * seeds * trials
        )
        for name, of_name in courses.items():
            for count, found in of_name.items():
                for seed in range(seeds):
                    finished: list[SimulatedTrial] = []
                    for one in replay_in_virtual_time(
                        table, durations, name, seed, count, trials, device
                    ):
                        finished.append(one)
                        progress.advance(task)
                    found.append(course_of(scorer, finished))
    return courses


def workers_document(courses: Courses, durations: Durations) -> Mapping[str, Any]:
    """Return what `--json` says of it: lists by number of workers."""
    return {
        "durations": durations.words,
        "asks": ASKS,
        "samplers": {name: _document(_scalings(of)) for name, of in courses.items()},
    }


def page_of(courses: Courses, title: str) -> str:
    """Return the plot, as a page that stands alone."""
    curves = {
        f"{count:,} {'workers' if count > 1 else 'worker'}"
        + (f", {name}" if len(courses) > 1 else ""): found
        for name, of_name in courses.items()
        for count, found in of_name.items()
    }
    if len(courses) == 1:
        title = f"{next(iter(courses))} on {title}"
    page: str = wall_time_figure(curves, title).to_html(include_plotlyjs=True)
    return page


def print_workers(console: Console, courses: Courses, durations: Durations) -> None:
    """Print a table for each sampler, and what its times are made of."""
    for name, of_name in courses.items():
        table = make_table(f"what more GPUs buy with {name}: virtual time to a dispatch score")
        headings = [f"to {target:g}" for target in TARGETS]
        for heading in ("workers", "trials", *headings, "to the end", "score", "busy", "s an ask"):
            table.add_column(heading, justify="right")
        scalings = _scalings(of_name)
        for count, scaling in scalings.items():
            gains = _speed_ups(scalings, count)
            table.add_row(
                f"{count:,}",
                str(scaling.trials),
                *(_cell(*pair) for pair in zip(scaling.seconds_to, gains, strict=True)),
                duration(scaling.wall_seconds),
                f"{scaling.dispatch_score:.4f}",
                f"{scaling.busy_workers:.1f}",
                f"{scaling.seconds_per_ask:.3f}",
            )
        console.print(table)
    print_note(
        console,
        "Means over seeds; in brackets, how many times sooner than one worker. busy: workers that "
        f"were measuring, on average. {durations.words}. Asks come {ASKS}. Not in it: starting "
        "processes, defaults, anchors, finalists, a database.",
    )


def _scalings(of_name: Mapping[int, Sequence[Course]]) -> dict[int, Scaling]:
    return {count: scaling_of(found) for count, found in of_name.items()}


def _speed_ups(scalings: Mapping[int, Scaling], count: int) -> Sequence[float | None]:
    if 1 not in scalings or count == 1:
        return [None] * len(TARGETS)
    return speed_ups(scalings[1], scalings[count])


def _document(scalings: Mapping[int, Scaling]) -> Mapping[str, Any]:
    every = scalings.values()
    return {
        "workers": list(scalings),
        "trials": [one.trials for one in every],
        "seconds_to": {
            f"{target:g}": [one.seconds_to[place] for one in every]
            for place, target in enumerate(TARGETS)
        },
        "speed_up": {
            f"{target:g}": [_speed_ups(scalings, count)[place] for count in scalings]
            for place, target in enumerate(TARGETS)
        },
        "wall_seconds": [one.wall_seconds for one in every],
        "dispatch_score": [one.dispatch_score for one in every],
        "busy_workers": [one.busy_workers for one in every],
        "seconds_per_ask": [one.seconds_per_ask for one in every],
    }


def _cell(seconds: float | None, gain: float | None) -> str:
    if seconds is None:
        return NONE
    if gain is None:
        return duration(seconds)
    return (
        f"{duration(seconds)} ({gain:.1f}×)" if gain < 10 else f"{duration(seconds)} ({gain:.0f}×)"
    )
