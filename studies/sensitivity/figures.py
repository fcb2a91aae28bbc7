"""Figures of a sensitivity analysis: effects, interactions, numeric axes, the zone."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

import numpy as np
import optuna
import plotly.graph_objects as go
from optuna_dashboard import save_plotly_graph_object
from plotly.subplots import make_subplots

from studies.sensitivity.analysis import LATENCY, MEMORY, Objective
from studies.sensitivity.report import SensitivityReport
from studies.storage.files import write_atomically

TITLES = {MEMORY: "peak memory", LATENCY: "latency"}
UNITS = {MEMORY: "MiB", LATENCY: "ms"}
COLORS = {MEMORY: "hsl(210,60%,45%)", LATENCY: "hsl(20,70%,50%)"}
PLOT_ID = "goldilocks-sensitivity-"


def figures(report: SensitivityReport) -> dict[str, go.Figure]:
    """Return figures by name; those of what is not ranked are missing."""
    objectives = report.sensitivity.objectives
    ranked = {name: objectives[name] for name in TITLES if objectives[name].shares}
    found: dict[str, go.Figure] = {}
    if ranked:
        found["effects"] = effects_figure(ranked)
        found["interactions"] = interactions_figure(ranked)
    if any(objective.levels for objective in ranked.values()):
        found["numbers"] = numbers_figure(ranked)
    found["zone"] = zone_figure(report)
    return found


def _in_two(title: str, detail: str) -> str:
    """Return a title of two lines: dashboards show figures side by side, and cut long ones."""
    return f"{title}<br><sup>{detail}</sup>"


def effects_figure(objectives: Mapping[str, Objective]) -> go.Figure:
    """Return total effects with intervals, and what axes do alone as hollow points."""
    figure = go.Figure()
    for name, objective in objectives.items():
        for kind, symbol in (("with others", "circle"), ("alone", "circle-open")):
            intervals = [
                (share.axis, share.total if kind == "with others" else share.alone)
                for share in reversed(objective.shares)
            ]
            figure.add_trace(
                go.Scatter(
                    x=[interval.value for _, interval in intervals],
                    y=[axis for axis, _ in intervals],
                    error_x={
                        "array": [interval.high - interval.value for _, interval in intervals],
                        "arrayminus": [interval.value - interval.low for _, interval in intervals],
                    },
                    mode="markers",
                    name=f"{TITLES[name]}, {kind}",
                    marker={"symbol": symbol, "size": 10, "color": COLORS[name]},
                )
            )
    figure.update_layout(
        title=_in_two(
            "What drives memory and latency",
            "share of the variance of their logarithms over the possible configurations, with "
            "95 % intervals",
        ),
        xaxis={"title": "share of the variance", "tickformat": ".0%", "rangemode": "tozero"},
        template="plotly_white",
    )
    return figure


def interactions_figure(objectives: Mapping[str, Objective]) -> go.Figure:
    """Return a heat map of pairwise interactions for each objective."""
    figure = make_subplots(
        cols=len(objectives), subplot_titles=[TITLES[name] for name in objectives]
    )
    for column, objective in enumerate(objectives.values(), 1):
        axes = [share.axis for share in objective.shares]
        shares = np.full((len(axes), len(axes)), np.nan)
        for pair in objective.interactions:
            one, other = (axes.index(axis) for axis in pair.axes)
            shares[one, other] = shares[other, one] = pair.share.value
        figure.add_trace(
            go.Heatmap(
                x=axes,
                y=axes,
                z=shares,
                zmin=0,
                coloraxis="coloraxis",
                texttemplate="%{z:.0%}",
                hovertemplate="%{x} with %{y}: %{z:.1%}<extra></extra>",
            ),
            row=1,
            col=column,
        )
    figure.update_layout(
        title=_in_two(
            "What two axes do together", "beyond any sum of two effects: share of the variance"
        ),
        coloraxis={"colorscale": "Blues", "cmin": 0, "colorbar": {"tickformat": ".0%"}},
        template="plotly_white",
    )
    return figure


def numbers_figure(objectives: Mapping[str, Objective]) -> go.Figure:
    """Return the geometric mean over each choice of the numeric axes, with intervals."""
    axes = list(dict.fromkeys(lv.axis for one in objectives.values() for lv in one.levels))
    figure = make_subplots(rows=len(objectives), cols=len(axes), shared_yaxes=True)
    for row, (name, objective) in enumerate(objectives.items(), 1):
        for column, axis in enumerate(axes, 1):
            levels = [level for level in objective.levels if level.axis == axis]
            mean = [10**level.mean.value for level in levels]
            figure.add_trace(
                go.Scatter(
                    x=[level.choice for level in levels],
                    y=mean,
                    error_y={
                        "array": [10**lv.mean.high - 10**lv.mean.value for lv in levels],
                        "arrayminus": [10**lv.mean.value - 10**lv.mean.low for lv in levels],
                    },
                    mode="lines+markers",
                    line={"color": COLORS[name]},
                    showlegend=False,
                ),
                row=row,
                col=column,
            )
            figure.update_xaxes(type="log", title=axis, row=row, col=column)
        figure.update_yaxes(type="log", row=row)
        figure.update_yaxes(title=f"{TITLES[name]}, {UNITS[name]}", row=row, col=1)
    figure.update_layout(
        title=_in_two(
            "Partial dependence",
            "geometric mean over the possible configurations, with 95 % intervals",
        ),
        template="plotly_white",
    )
    return figure


def zone_figure(report: SensitivityReport) -> go.Figure:
    """Return over batch and seq_len how many tried configurations are inside the zone, and which.

    Workloads that differ in other axes are counted together.
    """
    evidence = report.evidence
    number_of = {trial: index for index, trial in evidence.numbers.items()}
    counts: dict[tuple[int, int], int] = {}
    tried: dict[tuple[int, int], int] = {}
    inside: dict[tuple[int, int], dict[str, None]] = {}
    for workload, zone in zip(evidence.workloads, report.zone.workloads, strict=True):
        place = workload.batch, workload.seq_len
        counts[place] = counts.get(place, 0) + zone.part.inside
        tried[place] = tried.get(place, 0) + zone.part.tried
        for trial in zone.trials:
            variant = evidence.configurations[number_of[trial]].variant
            inside.setdefault(place, {}).setdefault(variant.key)
    batches = sorted({batch for batch, _ in counts})
    lengths = sorted({length for _, length in counts})
    z = [[counts.get((b, s)) for s in lengths] for b in batches]
    texts = [
        [_cell(tried.get((b, s), 0), inside.get((b, s), {})) for s in lengths] for b in batches
    ]
    figure = go.Figure(
        go.Heatmap(
            x=[str(length) for length in lengths],
            y=[str(batch) for batch in batches],
            z=z,
            customdata=texts,
            zmin=0,
            colorscale="Greens",
            texttemplate="%{z}",
            hovertemplate="batch %{y}, seq_len %{x}: %{z} inside %{customdata}<extra></extra>",
        )
    )
    figure.update_layout(
        title=_in_two(
            "The Goldilocks zone",
            f"tried configurations within {report.zone.tolerance:.0%} of a front point in memory "
            "and latency",
        ),
        xaxis={"title": "seq_len", "type": "category"},
        yaxis={"title": "batch", "type": "category"},
        template="plotly_white",
    )
    return figure


def _cell(tried: int, variants: Mapping[str, None]) -> str:
    shown = list(variants)[:8]
    more = [f"… {len(variants) - len(shown)} more"] if len(variants) > len(shown) else []
    return f"of {tried} tried" + "".join(f"<br>{line}" for line in [*shown, *more])


def save_figures(study: optuna.Study, drawn: Mapping[str, go.Figure]) -> None:
    """Attach the figures to the study; optuna-dashboard shows them below its own."""
    for name, figure in drawn.items():
        shown = _beside_importances(figure) if name == "effects" else figure
        save_plotly_graph_object(study, shown, graph_object_id=PLOT_ID + name)


def _beside_importances(figure: go.Figure) -> go.Figure:
    """Return the figure with what tells it from the dashboard's own importances beside it."""
    below = "the dashboard's Hyperparameter Importance: what sets the best trials apart"
    return go.Figure(figure).update_layout(
        title=f"{figure.layout.title.text}<br><sup>Another question than {below}</sup>",
        margin={"t": 110},
    )


def write_html(path: Path, drawn: Mapping[str, go.Figure], title: str) -> None:
    """Write all figures as one page that needs nothing else.

    Raises:
        OSError: It cannot be written.
    """
    body = "\n".join(
        figure.to_html(full_html=False, include_plotlyjs=place == 0)  # the library once
        for place, figure in enumerate(drawn.values())
    )
    write_atomically(
        path,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        f"</title></head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n</body></html>\n",
    )
