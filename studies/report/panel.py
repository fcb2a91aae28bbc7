"""A section of the report that another analysis fills."""

from __future__ import annotations

from dataclasses import dataclass

from studies.report.intervals import IntervalPlot


@dataclass(frozen=True, slots=True)
class PanelTable:
    """A table whose cells are formatted already."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]  # the first cell names its row


@dataclass(frozen=True, slots=True)
class Panel:
    """Text, plots and tables under one heading."""

    title: str
    text: tuple[str, ...]  # paragraphs
    plots: tuple[IntervalPlot, ...] = ()
    tables: tuple[PanelTable, ...] = ()
