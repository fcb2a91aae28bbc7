"""Numbers with their intervals, a line each, beside the scale that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from studies.report.scale import Scale


@dataclass(frozen=True, slots=True)
class Mark:
    """A number on a line, all places in percent of the scale."""

    at: float
    low: float
    high: float
    kind: str  # its colour and shape: `memory`, `latency alone`
    text: str  # said by hovering


@dataclass(frozen=True, slots=True)
class Line:
    """What one line is about."""

    label: str
    text: str  # its numbers
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Lines under a heading; the heading may be empty."""

    heading: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class IntervalPlot:
    """Groups of lines over one scale."""

    title: str
    about: str  # a sentence
    legend: tuple[tuple[str, str], ...]  # kind, what it stands for
    ticks: tuple[tuple[float, str], ...]  # place in percent, text
    origin: float | None  # where nothing changes
    groups: tuple[Group, ...]


def ticks_of(scale: Scale, form: str) -> tuple[tuple[float, str], ...]:
    """Return a scale's ticks with their texts: `form` is `{:.0%}` or `{:g}×`."""
    return tuple((scale.at(tick), form.format(tick)) for tick in scale.ticks())


def mark(
    scale: Scale, kind: str, text: str, value: float, ends: Sequence[float] | None = None
) -> Mark:
    """Return a number as a mark; without ends it has no interval."""
    low, high = ends or (value, value)
    return Mark(scale.at(value), scale.at(low), scale.at(high), kind, text)
