"""Puts the report together: one HTML file that runs its own scripts and no other."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import optuna
import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from studies.report.front_figures import history_figure
from studies.report.kept import kept_trials
from studies.report.map_grid import map_grids
from studies.report.panel import Panel
from studies.report.points import page_data
from studies.report.rows import workload_sections
from studies.results.command import in_lines, run_command
from studies.results.results import read_results
from studies.results.summary import summary

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class _Figure:
    """A finished figure and what it says to those who do not see it."""

    label: str
    drawing: object  # plotly's JSON


def render_report(study: optuna.Study, panels: Sequence[Panel] = ()) -> str:
    """Return the report of a study as HTML.

    Args:
        study: One of ours, finished or running.
        panels: Sections of other analyses, shown between the map and the fronts.

    Raises:
        StudyError: The study was written by an incompatible version.
    """
    results = read_results(study)
    kept = kept_trials(results)
    scripts = [get_plotlyjs().strip(), (_FOLDER / "page.js").read_text(encoding="utf-8").strip()]
    history = _figure("Share of the final hypervolume over trials", history_figure(results))
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
            panels=[
                (panel, [_figure(_title(one) or panel.title, one) for one in panel.figures])
                for panel in panels
            ],
            history=history if results.trials else None,
            data=page_data(results, kept),
            kept=len(kept),
            command=in_lines(run_command(results)),
            style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
            scripts=[Markup(script) for script in scripts],
            policy=_policy(scripts),
        )
    )


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


def _policy(scripts: Sequence[str]) -> str:
    """Return a Content-Security-Policy: no network, and no script but these.

    Whatever a study's names or reasons hold, it cannot run. plotly sets styles inline.
    """
    hashes = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
    ]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _figure(label: str, figure: go.Figure) -> _Figure:
    return _Figure(label, json.loads(figure.to_json()))


def _title(figure: go.Figure) -> str:
    """Return a figure's title as plain text of one line."""
    text = str(figure.layout.title.text or "").replace("<br>", ": ")
    return re.sub(r"<[^>]*>", "", text)


def _span(study: optuna.Study) -> tuple[datetime, datetime] | None:
    """Return when the first trial began and the last one ended."""
    trials = study.get_trials(deepcopy=False)
    began = [trial.datetime_start for trial in trials if trial.datetime_start is not None]
    ended = [trial.datetime_complete for trial in trials if trial.datetime_complete is not None]
    return (min(began), max(ended)) if began and ended else None
