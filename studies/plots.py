"""Figures of a study, drawn with plotly: prepared as data first, so that tests need no picture."""

from __future__ import annotations

from dataclasses import dataclass

import optuna
import plotly.graph_objects as go
from optuna_dashboard import save_plotly_graph_object

from studies.front import Candidate, WorkloadResult
from studies.results import Results

FRONT_PLOT_ID = "goldilocks-front"


@dataclass(frozen=True, slots=True)
class Points:
    """Configurations that are drawn alike, as shares of their workload's default."""

    label: str
    memory: tuple[float, ...]
    latency: tuple[float, ...]
    names: tuple[str, ...]  # of their variants
    front: bool  # joined by a line


def front_points(results: Results) -> list[Points]:
    """Return what is drawn: a front a workload, and all that was measured.

    Grouped by workload where there are several, and by backend where there is one.
    """
    drawn = []
    for result in results.workloads:
        groups: dict[str, list[Candidate]] = {}
        for candidate in result.measured:
            backend = candidate.evaluation.configuration.variant.backend
            label = backend if len(results.workloads) == 1 else result.workload.key
            groups.setdefault(label, []).append(candidate)
        drawn += [_points(label, group, result, front=False) for label, group in groups.items()]
        if result.front:
            label = "front" if len(results.workloads) == 1 else result.workload.key
            drawn.append(_points(label, list(result.front), result, front=True))
    return drawn


def _points(
    label: str, candidates: list[Candidate], result: WorkloadResult, *, front: bool
) -> Points:
    unit = result.unit
    return Points(
        label,
        tuple(candidate.memory / unit.peak_memory_mib for candidate in candidates),
        tuple(candidate.latency / unit.latency_ms for candidate in candidates),
        tuple(candidate.evaluation.configuration.variant.key for candidate in candidates),
        front,
    )


def front_figure(results: Results) -> go.Figure:
    """Return memory against latency, both as shares of each workload's default, on log axes."""
    figure = go.Figure()
    drawn = front_points(results)
    labels = list(dict.fromkeys(points.label for points in drawn))
    shown: set[str] = set()
    for points in drawn:
        # The golden angle: any number of hues, neighbours far apart.
        color = f"hsl({labels.index(points.label) * 137 % 360},60%,45%)"
        figure.add_trace(
            go.Scatter(
                x=points.memory,
                y=points.latency,
                text=points.names,
                mode="lines+markers" if points.front else "markers",
                name=points.label,
                legendgroup=points.label,
                showlegend=points.label not in shown,
                marker={"size": 11 if points.front else 7, "color": color, "opacity": 0.7},
                line={"color": color, "width": 1, "shape": "hv"},
            )
        )
        shown.add(points.label)
    figure.add_hline(y=1, line_width=1, line_dash="dot")
    figure.add_vline(x=1, line_width=1, line_dash="dot")
    what = _subject(results)
    figure.update_layout(
        title=f"{results.environment.device.name}: {what}, default at the dotted lines",
        xaxis={"title": "peak memory, share of the default's", "type": "log"},
        yaxis={"title": "latency, share of the default's", "type": "log"},
        template="plotly_white",
        legend={"font": {"size": 10}},
    )
    return figure


def _subject(results: Results) -> str:
    if len(results.workloads) == 1:
        return results.workloads[0].workload.key
    return f"fronts of {len(results.workloads)} workloads"


def save_plots(study: optuna.Study, results: Results) -> None:
    """Attach the figures to the study; optuna-dashboard shows them below its own."""
    save_plotly_graph_object(study, front_figure(results), graph_object_id=FRONT_PLOT_ID)
