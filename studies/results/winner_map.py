"""The Goldilocks map: workloads laid out over batch and seq_len, to show each one's winner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from studies.results.front import WorkloadResult
from studies.results.results import Results
from variants.axes import WORKLOAD_AXES
from variants.workload import Workload


@dataclass(frozen=True, slots=True)
class WinnerMap:
    """Workloads in rows and columns; one map for each combination of the remaining axes."""

    title: str  # what all its workloads have in common beyond the other maps'
    row_axis: str
    column_axis: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[WorkloadResult | None, ...], ...]  # by row, then by column


def winner_maps(results: Results) -> tuple[WinnerMap, ...]:
    """Return batch × seq_len, a map for each combination of the other axes that vary.

    Where only one of the two varies it makes the rows, and those combinations the columns of a
    single map. With a single workload there is no map.
    """
    found = results.workloads
    if len(found) < 2:
        return ()
    varying = _varying([result.workload for result in found])
    shape = [axis for axis in varying if axis in ("batch", "seq_len")]
    others = [axis for axis in varying if axis not in shape]
    if len(shape) == 2:
        titles = dict.fromkeys(_titled(result.workload, others) for result in found)
        return tuple(
            _map(
                title,
                ["batch"],
                ["seq_len"],
                [result for result in found if _titled(result.workload, others) == title],
            )
            for title in titles
        )
    rows = shape or ["batch"]
    columns = others or ["batch" if "seq_len" in rows else "seq_len"]
    return (_map("", rows, columns, found),)


def _varying(workloads: Sequence[Workload]) -> list[str]:
    """Return the axes that differ, without those that follow from others."""
    derived = {"kv_heads", "hidden_size", "new_tokens"}
    varying = [
        axis
        for axis in WORKLOAD_AXES
        if len({getattr(workload, axis) for workload in workloads}) > 1
    ]
    chosen = [axis for axis in varying if axis not in derived]
    # What follows from others is only left out while the others alone tell workloads apart.
    apart = {tuple(getattr(workload, axis) for axis in chosen) for workload in workloads}
    return chosen if len(apart) == len(workloads) else varying


def _map(
    title: str, row_axes: list[str], column_axes: list[str], found: Sequence[WorkloadResult]
) -> WinnerMap:
    rows = tuple(dict.fromkeys(_named(r.workload, row_axes) for r in _sorted(found, row_axes)))
    columns = tuple(
        dict.fromkeys(_named(r.workload, column_axes) for r in _sorted(found, column_axes))
    )
    by_place = {(_named(r.workload, row_axes), _named(r.workload, column_axes)): r for r in found}
    return WinnerMap(
        title=title,
        row_axis=" · ".join(row_axes),
        column_axis=" · ".join(column_axes),
        rows=rows,
        columns=columns,
        cells=tuple(tuple(by_place.get((row, column)) for column in columns) for row in rows),
    )


def _sorted(found: Sequence[WorkloadResult], axes: list[str]) -> list[WorkloadResult]:
    """Sort by numbers; names stay in the order in which the space has them."""

    def numbers(result: WorkloadResult) -> tuple[int, ...]:
        values = (getattr(result.workload, axis) for axis in axes)
        return tuple(value for value in values if isinstance(value, int))

    return sorted(found, key=numbers)


def _named(workload: Workload, axes: Sequence[str]) -> str:
    return " · ".join(str(getattr(workload, axis)) for axis in axes)


def _titled(workload: Workload, axes: Sequence[str]) -> str:
    return ", ".join(f"{axis} {getattr(workload, axis)}" for axis in axes)
