"""Puts the report together: one HTML file that runs its own scripts and no other."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import optuna
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from studies.report.history import history_plot
from studies.report.kept import kept_trials
from studies.report.map_grid import map_grids
from studies.report.panel import Panel
from studies.report.points import page_data
from studies.report.rows import workload_sections
from studies.report.shades import KEY
from studies.report.use_it import snippets
from studies.results.command import in_lines, run_command
from studies.results.results import read_results
from studies.results.summary import summary

_FOLDER = Path(__file__).parent


_SCRIPTS = ("data", "axis", "chart", "fronts", "table", "filters")  # in this order


def render_report(
    study: optuna.Study, panels: Sequence[Panel] = (), storage_words: str = ""
) -> str:
    """Return the report of a study as HTML.

    Args:
        study: One of ours, finished or running.
        panels: Sections of other analyses, shown behind the workloads.
        storage_words: The `--storage` option of commands that find the study.

    Raises:
        StudyError: The study was written by an incompatible version.
    """
    results = read_results(study)
    kept = kept_trials(results)
    script = _script()
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            results=results,
            device=results.environment.device,
            plan=results.plan,
            summary=summary(results),
            span=_span(study),
            sections=workload_sections(results),
            grids=map_grids(results),
            shade_key=KEY,
            snippets=snippets(results, storage_words),
            panels=panels,
            history=history_plot(results),
            data=page_data(results, kept),
            kept=len(kept),
            command=in_lines(run_command(results)),
            style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
            script=Markup(script),
            policy=_policy(script),
        )
        .lstrip()
    )


def _script() -> str:
    """Return the page's script: its parts in one scope, so that no name is the window's."""
    parts = [(_FOLDER / "scripts" / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS]
    return '"use strict";\n(() => {\n' + "".join(parts) + "})();"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A NaN would not be JSON, and a script that reads none of it would show an empty page.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def _policy(script: str) -> str:
    """Return a Content-Security-Policy: no network, and no script but this one.

    Whatever a study's names or reasons hold, it cannot run. Widths and places are styles inline.
    """
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{allowed}'; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )


def _span(study: optuna.Study) -> tuple[datetime, datetime] | None:
    """Return when the first trial began and the last one ended."""
    trials = study.get_trials(deepcopy=False)
    began = [trial.datetime_start for trial in trials if trial.datetime_start is not None]
    ended = [trial.datetime_complete for trial in trials if trial.datetime_complete is not None]
    return (min(began), max(ended)) if began and ended else None
