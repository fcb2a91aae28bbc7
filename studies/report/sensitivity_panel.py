"""What a sensitivity analysis says, as a section of the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from studies.report.effect_plots import NAMES, choices_plot, shares_plot
from studies.report.panel import Panel, PanelTable
from studies.sensitivity.analysis import Objective
from studies.sensitivity.quality import Quality
from studies.sensitivity.report import SensitivityReport

_PAIRS = 6  # of axes, those that do most together
_ZONE = "of the configurations tried, those within {:.0%} of a front point in memory and latency"
_LEAST_TOGETHER = 0.01  # of the variance; less is not worth a line


def sensitivity_panel(report: SensitivityReport) -> Panel:
    """Return the section: how far the surrogate can be believed, then what it says."""
    objectives = report.sensitivity.objectives
    plots = [shares_plot(objectives), *(choices_plot(objectives[name]) for name in NAMES)]
    tables = [_together(objectives), _zone(report)]
    return Panel(
        "Which choices matter",
        tuple(_text(report)),
        tuple(plot for plot in plots if plot is not None),
        tuple(table for table in tables if table is not None),
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
    if len(report.evidence.workloads) == 1:
        zone = report.zone.part
        said = _ZONE.format(report.zone.tolerance)
        yield f"The Goldilocks zone, {said}, holds {zone.inside} of {zone.tried}."


def _part(quality: Quality) -> str:
    if not quality.left_out:
        return ""
    return (
        f" It learns from {quality.trials:,} of {quality.trials + quality.left_out:,} trials: "
        f"{quality.probes:,} probes, and others evenly."
    )


def _together(objectives: Mapping[str, Objective]) -> PanelTable | None:
    """Return the pairs of axes that do most together, beyond the sum of what each does."""
    rows = [
        (
            f"{pair.axes[0]} with {pair.axes[1]}",
            label,
            f"{pair.share.value:.0%} [{pair.share.low:.0%}, {pair.share.high:.0%}]",
        )
        for name, label in NAMES.items()
        for pair in objectives[name].interactions[:_PAIRS]
        if pair.share.value >= _LEAST_TOGETHER
    ]
    if not rows:
        return None
    return PanelTable(
        "What two axes do together, beyond any sum of two effects: share of the variance, with "
        "95 % intervals",
        ("axes", "of", "share"),
        tuple(rows),
    )


def _zone(report: SensitivityReport) -> PanelTable | None:
    """Return how many of what was tried are about as good as the front, by batch and seq_len."""
    if len(report.evidence.workloads) == 1:
        return None
    inside: dict[tuple[int, int], int] = {}
    tried: dict[tuple[int, int], int] = {}
    for workload, zone in zip(report.evidence.workloads, report.zone.workloads, strict=True):
        place = workload.batch, workload.seq_len
        inside[place] = inside.get(place, 0) + zone.part.inside
        tried[place] = tried.get(place, 0) + zone.part.tried
    batches, lengths = (sorted({place[axis] for place in tried}) for axis in (0, 1))
    return PanelTable(
        f"The Goldilocks zone: {_ZONE.format(report.zone.tolerance)}",
        ("batch ↓ seq_len →", *map(str, lengths)),
        tuple(
            (
                str(batch),
                *(
                    f"{inside[batch, length]} of {tried[batch, length]}"
                    if (batch, length) in tried
                    else "–"
                    for length in lengths
                ),
            )
            for batch in batches
        ),
    )
