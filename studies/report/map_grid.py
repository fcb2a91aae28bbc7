"""The Goldilocks map as a table: each cell a workload and its balanced winner."""

from __future__ import annotations

from dataclasses import dataclass

from studies.results.front import WorkloadResult
from studies.results.labels import size, speed, variant_label
from studies.results.results import Results
from studies.results.winner_map import winner_maps


@dataclass(frozen=True, slots=True)
class MapCell:
    """The winner of a workload in the Goldilocks map."""

    place: int  # of its section
    winner: str
    faster: str
    smaller: str
    shade: str  # by gain in latency: worse, same, better, much


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

    def cell(result: WorkloadResult | None) -> MapCell | None:
        if result is None:
            return None
        place = places[result.workload.key]
        if not result.winners:
            return MapCell(place, "nothing usable", "", "", "worse")
        winner = result.winners["balanced"].candidate
        latency = result.latency_ratio(winner)
        return MapCell(
            place=place,
            winner="the default"
            if winner.number is None
            else variant_label(winner.evaluation.configuration.variant),
            faster=speed(latency),
            smaller=size(result.memory_ratio(winner)),
            shade=_shade(latency),
        )

    return [
        MapGrid(
            title=one.title,
            row_axis=one.row_axis,
            column_axis=one.column_axis,
            columns=one.columns,
            rows=tuple(
                (name, tuple(cell(result) for result in cells))
                for name, cells in zip(one.rows, one.cells, strict=True)
            ),
        )
        for one in winner_maps(results)
    ]


def _shade(latency_ratio: float) -> str:
    for limit, shade in ((0.2, "most"), (0.5, "much"), (0.95, "better"), (1.05, "same")):
        if latency_ratio <= limit:
            return shade
    return "worse"
