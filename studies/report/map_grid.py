"""The Goldilocks map as a table: each cell a workload and its balanced winner."""

from __future__ import annotations

from dataclasses import dataclass

from studies.report.shades import shade_of
from studies.results.front import WorkloadResult
from studies.results.labels import gain, speed, variant_label
from studies.results.results import Results
from studies.results.winner_map import winner_maps
from variants.variant import Variant


@dataclass(frozen=True, slots=True)
class MapCell:
    """The winner of a workload in the Goldilocks map."""

    place: int  # of its section
    winner: str  # short: a cell is small
    described: str  # the whole of it, shown by hovering
    faster: str
    shade: str


@dataclass(frozen=True, slots=True)
class MapGrid:
    """The Goldilocks map of workloads that differ in its two axes alone."""

    title: str
    row_axis: str
    column_axis: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[MapCell | None, ...]], ...]


def map_grids(results: Results) -> list[MapGrid]:
    """Return the map with the balanced winner of each workload."""
    places = {result.workload.key: place for place, result in enumerate(results.workloads)}
    return [
        MapGrid(
            title=one.title,
            row_axis=one.row_axis,
            column_axis=one.column_axis,
            columns=one.columns,
            rows=tuple(
                (
                    name,
                    tuple(
                        None if result is None else _cell(places[result.workload.key], result)
                        for result in cells
                    ),
                )
                for name, cells in zip(one.rows, one.cells, strict=True)
            ),
        )
        for one in winner_maps(results)
    ]


def _cell(place: int, result: WorkloadResult) -> MapCell:
    if not result.winners:
        return MapCell(place, "nothing usable", "nothing could be used", "", "none")
    winner = result.winners["balanced"].candidate
    variant = winner.evaluation.configuration.variant
    latency = result.latency_ratio(winner)
    smaller = gain(result.memory_ratio(winner), "smaller", "larger")
    name = variant_label(variant)
    return MapCell(
        place=place,
        winner="default" if winner.number is None else _short_name(variant),
        described=f"{name}: {gain(latency, 'faster', 'slower')}, {smaller} in memory",
        faster=speed(latency),
        shade=shade_of(latency),
    )


def _short_name(variant: Variant) -> str:
    """Return backend and precision: a cell is small, and hovering tells the rest."""
    return f"{variant.backend} {variant.precision}"
