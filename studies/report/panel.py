"""A section of the report that another analysis fills."""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go


@dataclass(frozen=True, slots=True)
class PanelTable:
    """A table whose cells are formatted already."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]  # the first cell names its row


@dataclass(frozen=True, slots=True)
class Panel:
    """A section of the report: text, figures and tables under one heading."""

    title: str
    text: tuple[str, ...]  # paragraphs
    figures: tuple[go.Figure, ...] = ()
    tables: tuple[PanelTable, ...] = ()
