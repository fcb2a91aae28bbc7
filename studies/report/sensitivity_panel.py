"""What a sensitivity analysis says, as a section of the report."""

from __future__ import annotations

from collections.abc import Iterator

from studies.numerics.interval import Interval
from studies.report.panel import Panel, PanelTable
from studies.sensitivity.analysis import LATENCY, MEMORY
from studies.sensitivity.figures import figures
from studies.sensitivity.quality import Quality
from studies.sensitivity.report import SensitivityReport

NAMES = {MEMORY: "memory", LATENCY: "latency"}


def sensitivity_panel(report: SensitivityReport) -> Panel:
    """Return the section: how far the surrogate can be believed, then what it says."""
    found = report.sensitivity
    ranked = [name for name in NAMES if found.objectives[name].shares]
    tables = []
    if ranked:
        headings = ["axis"]
        for name in ranked:
            headings += [f"{NAMES[name]}, alone", f"{NAMES[name]}, with others"]
        tables.append(
            PanelTable(
                "Share of the variance over all possible configurations, 95 % intervals",
                tuple(headings),
                tuple(_share_rows(report, ranked)),
            )
        )
    return Panel(
        "Which choices matter",
        tuple(_text(report)),
        tuple(figures(report).values()),
        tuple(tables),
    )


def _text(report: SensitivityReport) -> Iterator[str]:
    found, tried = report.sensitivity, report.evidence.observations.tried
    yield (
        f"{len(tried)} of {found.possible} possible configurations were "
        f"tried, {found.probes} of them probes, which fill the space instead of looking good. The "
        "surrogate is judged by these alone."
    )
    if part := found.extent.text(found.possible):
        yield part
    for name, label in NAMES.items():
        quality = found.objectives[name].quality
        if quality.refusal is not None:
            yield f"Of {label}, nothing is ranked: {quality.refusal}."
        elif quality.r_squared is not None:
            yield (
                f"Of {label}, probes that it had not seen are predicted with an R² of "
                f"{quality.r_squared.value:.2f} [{quality.r_squared.low:.2f}, "
                f"{quality.r_squared.high:.2f}]." + _part(quality)
            )


def _part(quality: Quality) -> str:
    if not quality.left_out:
        return ""
    return (
        f" It learns from {quality.trials:,} of {quality.trials + quality.left_out:,} trials: "
        f"{quality.probes:,} probes, and others evenly."
    )


def _share_rows(report: SensitivityReport, ranked: list[str]) -> Iterator[tuple[str, ...]]:
    objectives = report.sensitivity.objectives
    by_axis = {name: {s.axis: s for s in objectives[name].shares} for name in ranked}
    for axis in by_axis[ranked[0]]:
        cells = [axis]
        for name in ranked:
            share = by_axis[name].get(axis)
            cells += ["", ""] if share is None else [_percent(share.alone), _percent(share.total)]
        yield tuple(cells)


def _percent(interval: Interval) -> str:
    return f"{interval.value:.0%} [{interval.low:.0%}, {interval.high:.0%}]"
