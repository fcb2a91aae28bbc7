"""Figures of a study, drawn with plotly: prepared as data first, so that tests need no picture."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from studies.numerics.arrays import evenly_spaced
from studies.results.candidate import Candidate
from studies.results.convergence import Steps, hypervolume_history
from studies.results.front import Preference, WorkloadResult
from studies.results.labels import (
    mebibytes,
    milliseconds,
    size,
    speed,
    trial_name,
    variant_label,
    workload_label,
)
from studies.results.results import Results
from studies.results.winner_map import WinnerMap, winner_maps

FRONT_PLOT_ID, MAP_PLOT_ID, HISTORY_PLOT_ID = "goldilocks-front", "goldilocks-map", "hypervolume"
# Okabe and Ito's palette: eight colours that colour-blind readers can tell apart.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#6F6F6F")
TICKS = {"type": "log", "tickformat": ",.3~r", "nticks": 5}
_MAPS_A_ROW = 3
_MOST_TRIALS = 2_000  # of which each is a point of a history
MOST_DRAWN = 5_000  # configurations; each is a line of text that hovering shows


@dataclass(frozen=True, slots=True)
class Points:
    """Configurations that are drawn alike, as shares of their workload's default."""

    label: str  # a backend; of a front its workload
    memory: tuple[float, ...]
    latency: tuple[float, ...]
    names: tuple[str, ...]  # of their variants, with their numbers
    backends: tuple[str, ...]
    front: bool  # joined by a line


def front_points(results: Results) -> list[Points]:
    """Return what is drawn: what was measured, by backend, or an even part of it, and fronts."""
    part = min(1.0, MOST_DRAWN / max(1, _measured(results)))
    varying = set(results.plan.space.searched)
    groups: dict[str, list[tuple[Candidate, WorkloadResult]]] = {}
    for result in results.workloads:
        count = len(result.measured)
        for place in evenly_spaced(count, math.ceil(part * count)):
            groups.setdefault(_backend(result.measured[place]), []).append(
                (result.measured[place], result)
            )
    drawn = [_points(backend, group, varying, front=False) for backend, group in groups.items()]
    for result in results.workloads:
        if result.front:
            label = workload_label(result.workload, varying)
            front = [(candidate, result) for candidate in result.front]
            drawn.append(_points(label, front, varying, front=True))
    return drawn


def _backend(candidate: Candidate) -> str:
    return candidate.evaluation.configuration.variant.backend


def _measured(results: Results) -> int:
    return sum(len(result.measured) for result in results.workloads)


def _points(
    label: str,
    of: list[tuple[Candidate, WorkloadResult]],
    varying: set[str],
    *,
    front: bool,
) -> Points:
    return Points(
        label,
        tuple(candidate.memory / result.baseline.peak_memory_mib for candidate, result in of),
        tuple(candidate.latency / result.baseline.latency_ms for candidate, result in of),
        tuple(
            "<br>".join(
                html.escape(text)
                for text in (workload_label(result.workload, varying), _described(candidate))
            )
            for candidate, result in of
        ),
        tuple(_backend(candidate) for candidate, _ in of),
        front,
    )


def _described(candidate: Candidate) -> str:
    ran = candidate.measurements.backend_ran
    name = variant_label(candidate.evaluation.configuration.variant, ran)
    numbers = f"{milliseconds(candidate.latency)} ms, {mebibytes(candidate.memory)} MiB"
    return f"{trial_name(candidate.number)}: {name}, {numbers}"


def front_figure(results: Results) -> go.Figure:
    """Return memory against latency, both as shares of each workload's default, on log axes."""
    drawn = front_points(results)
    color_of = {
        points.label: PALETTE[place % len(PALETTE)]
        for place, points in enumerate(points for points in drawn if not points.front)
    }
    figure = go.Figure([_trace(points, color_of) for points in drawn])
    figure.add_hline(y=1, line_width=1, line_dash="dot")
    figure.add_vline(x=1, line_width=1, line_dash="dot")
    beside = [points for points in drawn if not points.front]
    fronts = [points for points in drawn if points.front]
    reach = {
        name: _reach(
            [value for points in beside for value in getattr(points, name)],
            [1.0, *(value for points in fronts for value in getattr(points, name))],
        )
        for name in ("memory", "latency")
    }
    figure.update_layout(
        title=f"Fronts on {html.escape(results.environment.device.name)}: {_subject(results)}",
        xaxis=TICKS | {"title": "peak memory / default's (dotted)", "range": reach["memory"]},
        yaxis=TICKS | {"title": "latency / default's (dotted)", "range": reach["latency"]},
        template="plotly_white",
        legend={"font": {"size": 11}},
        margin={"t": 70, "b": 50},
    )
    return figure


def _trace(points: Points, color_of: Mapping[str, str]) -> go.Scatter:
    return go.Scatter(
        x=points.memory,
        y=points.latency,
        text=points.names,
        hovertemplate="%{text}<br>memory %{x:.3g}, latency %{y:.3g} of the default's"
        "<extra></extra>",
        mode="lines+markers" if points.front else "markers",
        name=html.escape(points.label),
        showlegend=not points.front,
        marker={
            "size": 10 if points.front else 6,
            "color": [color_of.get(backend, "#808080") for backend in points.backends],
            "opacity": 0.9 if points.front else 0.45,
        },
        line={"color": "#808080", "width": 1, "shape": "hv"},
    )


def _reach(values: Sequence[float], needed: Sequence[float]) -> list[float]:
    """Return the ends of a log axis, as plotly wants them: in powers of ten.

    What lies beyond Tukey's fences does not stretch it, unless it is needed; a double click
    shows it.
    """
    ends = np.log10(needed)
    low, high = float(ends.min()), float(ends.max())
    if values:
        logs = np.log10(values)
        quarter, three = np.quantile(logs, (0.25, 0.75))
        fence = 1.5 * (three - quarter)
        low = min(low, max(float(logs.min()), float(quarter - fence)))
        high = max(high, min(float(logs.max()), float(three + fence)))
    room = max(0.05 * (high - low), 0.02)
    return [low - room, high + room]


def _subject(results: Results) -> str:
    measured = _measured(results)
    some = f"; beside them {MOST_DRAWN:,} of {measured:,} points" if measured > MOST_DRAWN else ""
    # The dashboard's own plot stands beside.
    several = "<br><sup>a line each; Pareto Front is of all workloads together</sup>"
    return _workloads(results) + some + (several if len(results.workloads) > 1 else "")


def _workloads(results: Results) -> str:
    if len(results.workloads) == 1:
        varying = set(results.plan.space.searched)
        return html.escape(workload_label(results.workloads[0].workload, varying))
    return f"{len(results.workloads)} workloads"


def history_figure(results: Results) -> go.Figure:
    """Return the share of the final hypervolume over trials, of each workload and in the mean."""
    history = hypervolume_history(results)
    varying = set(results.plan.space.searched)
    names = {r.workload.key: workload_label(r.workload, varying) for r in results.workloads}
    figure = go.Figure()
    for key, steps in history.by_workload.items():
        figure.add_trace(
            go.Scatter(
                **_drawn(steps, history.trials),
                mode="lines",
                name=html.escape(names[key]),
                line={"color": "#b8b8b8", "width": 1, "shape": "hv"},
                showlegend=False,
                hovertemplate="%{x} trials: %{y:.0%}",
            )
        )
    if len(history.by_workload) != 1:
        figure.add_trace(
            go.Scatter(
                **({} if history.mean is None else _drawn(history.mean, history.trials)),
                mode="lines",
                name="mean",
                line={"color": PALETTE[0], "width": 3, "shape": "hv"},
                showlegend=False,
                hovertemplate="%{x} trials: %{y:.0%}",
            )
        )
    else:
        figure.update_traces(line={"color": PALETTE[0], "width": 3})
    figure.update_layout(
        title="What the search had found after so many trials",
        xaxis={"title": "trials told", "rangemode": "tozero"},
        yaxis={"title": "share of final hypervolume", "tickformat": ".0%", "range": [0, 1.03]},
        template="plotly_white",
        margin={"t": 50, "b": 50},
    )
    return figure


def _drawn(steps: Steps, trials: int) -> dict[str, tuple[float, ...]]:
    """Return a line's points: one a trial, or, of very many trials, where it changes."""
    if trials <= _MOST_TRIALS:
        return {"x": tuple(range(trials + 1)), "y": steps.up_to(trials)}
    return {"x": (*steps.trials, trials), "y": (*steps.shares, steps.shares[-1])}


def map_figure(results: Results, preference: Preference = "balanced") -> go.Figure | None:
    """Return the Goldilocks map, coloured by gain in latency; None with a single workload."""
    maps = winner_maps(results)
    if not maps:
        return None
    across = min(_MAPS_A_ROW, len(maps))
    figure = make_subplots(
        rows=math.ceil(len(maps) / across),
        cols=across,
        subplot_titles=[html.escape(one.title) for one in maps],
    )
    for place, one in enumerate(maps):
        row, column = place // across + 1, place % across + 1
        figure.add_trace(_heatmap(one, preference), row=row, col=column)
        figure.update_xaxes(title=one.column_axis, type="category", row=row, col=column)
        title = one.row_axis if column == 1 else None
        figure.update_yaxes(title=title, type="category", row=row, col=column)
    figure.update_layout(
        title=f"Goldilocks map: how much faster each {preference.replace('_', ' ')} winner is",
        coloraxis={
            "colorscale": [[0, "#f7d9c4"], [0.5, "#f7f7f7"], [1, "#8cc5b0"]],
            "cmin": -3,
            "cmax": 3,
            "colorbar": {
                "title": "faster",
                "tickvals": [-3, -1, 0, 1, 3],
                "ticktext": ["1/8×", "1/2×", "1×", "2×", "8×"],
            },
        },
        template="plotly_white",
        margin={"t": 70, "b": 50},
    )
    return figure


def _heatmap(one: WinnerMap, preference: Preference) -> go.Heatmap:
    return go.Heatmap(
        x=[html.escape(name) for name in one.columns],
        y=[html.escape(name) for name in one.rows],
        z=[[_gain(result, preference) for result in row] for row in one.cells],
        text=[[_cell(result, preference) for result in row] for row in one.cells],
        hovertext=[[_hover(result, preference) for result in row] for row in one.cells],
        texttemplate="%{text}",
        textfont={"size": 11},
        hovertemplate="%{x}, %{y}<br>%{hovertext}<extra></extra>",
        coloraxis="coloraxis",
        xgap=2,
        ygap=2,
    )


def _gain(result: WorkloadResult | None, preference: Preference) -> float | None:
    if result is None or not result.winners:
        return None
    return -math.log2(result.latency_ratio(result.winners[preference].candidate))


def _cell(result: WorkloadResult | None, preference: Preference) -> str:
    """Return what fits into a small cell: the gain in latency and the backend."""
    if result is None:
        return ""
    if not result.winners:
        return "nothing<br>usable"
    winner = result.winners[preference].candidate
    backend = winner.evaluation.configuration.variant.backend
    name = "default" if winner.number is None else html.escape(backend)
    return f"{speed(result.latency_ratio(winner))}<br>{name}"


def _hover(result: WorkloadResult | None, preference: Preference) -> str:
    if result is None or not result.winners:
        return ""
    winner = result.winners[preference].candidate
    smaller = size(result.memory_ratio(winner))
    return f"{html.escape(_described(winner))}<br>memory {smaller}"


def save_plots(study: optuna.Study, results: Results) -> None:
    """Attach the figures to the study; optuna-dashboard shows them below its own."""
    from optuna_dashboard import save_plotly_graph_object  # takes seconds to import

    save_plotly_graph_object(study, front_figure(results), graph_object_id=FRONT_PLOT_ID)
    save_plotly_graph_object(study, history_figure(results), graph_object_id=HISTORY_PLOT_ID)
    map_of = map_figure(results)
    if map_of is not None:
        save_plotly_graph_object(study, map_of, graph_object_id=MAP_PLOT_ID)
