"""The sensitivity command: which choices matter, where both are good, and what to try next."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from search.options.choices import UsageError
from search.options.shared_options import DEFAULT_STORAGE, Storage, StudyName, storage_words
from search.views.terminal import make_console
from studies.space.defaults import ZONE_TOLERANCE
from studies.study.study import load_study, open_storage

console = make_console()


def sensitivity(
    study: StudyName = None,
    storage: Storage = DEFAULT_STORAGE,
    by_workload: Annotated[
        bool, typer.Option("--by-workload", help="Of each workload by itself, too.")
    ] = False,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0.0, help="How far behind a front point, in memory and in latency, the zone goes."
        ),
    ] = ZONE_TOLERANCE,
    prior: Annotated[bool, typer.Option(help="Start from what the roofline expects.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print one row for each number as CSV.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write the figures, in one file.")
    ] = None,
) -> None:
    """Say which axes drive memory and latency, where both are good, and what to try next."""
    if as_json and as_csv:
        raise UsageError("--json and --csv must not both be given")
    # These take seconds to import, which `search --help` need not wait for.
    from search.views.changes_view import print_changes
    from search.views.effects_view import print_effects, print_importances, print_workloads
    from search.views.zone_view import print_zone
    from studies.sensitivity.assess import assess
    from studies.sensitivity.figures import figures, save_figures, write_html
    from studies.sensitivity.report import as_rows

    chosen = load_study(open_storage(storage, create=False), study)
    report = assess(chosen, prior=prior, by_workload=by_workload, tolerance=tolerance)
    drawn = figures(report)
    save_figures(chosen, drawn)
    if html is not None:
        try:
            write_html(html, drawn, f"Sensitivity of {chosen.study_name}")
        except OSError as error:
            raise UsageError(
                f"--html must be a file that can be written, got {html}: {error.strerror}"
            ) from None
    if as_json:
        sys.stdout.write(json.dumps(report.as_document(), indent=2) + "\n")
        return
    if as_csv:
        as_rows(report).to_csv(sys.stdout, index=False)
        return
    where = f"--study {shlex.quote(chosen.study_name)}{storage_words(storage)}"
    print_effects(console, report, where)
    print_changes(console, report)
    print_workloads(console, report)
    print_importances(console, report)
    print_zone(console, report, where)
    if html is not None:
        console.print(f"wrote {html}")
