"""Each workload's default and winners as a table of HTML, which notebooks show."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterator, Sequence

from studies.results.candidate import Candidate
from studies.results.front import WorkloadResult
from studies.results.labels import (
    mebibytes,
    milliseconds,
    size,
    speed,
    variant_label,
    workload_label,
)

_HEADINGS = (
    *("workload", "choice", "variant", "trial", "latency ms"),
    *("faster", "peak MiB", "smaller", "error"),
)
_NUMBERS_FROM = 3  # the columns that hold numbers


def winners_html(
    caption: str, workloads: Sequence[WorkloadResult], varying: Collection[str]
) -> str:
    """Return a table; `varying` are the axes that tell its workloads apart."""
    head = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
    rows = [
        _row(cells)
        for result in workloads
        for cells in _cells(result, workload_label(result.workload, varying))
    ]
    return (
        f"<table><caption>{html.escape(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _row(cells: Sequence[str]) -> str:
    written = [
        f'<td style="text-align:{"right" if place >= _NUMBERS_FROM else "left"}">'
        f"{html.escape(cell)}</td>"
        for place, cell in enumerate(cells)
    ]
    return f"<tr>{''.join(written)}</tr>"


def _cells(result: WorkloadResult, label: str) -> Iterator[list[str]]:
    default = result.default
    found = next((one for one in result.measured if one.number is None), None)
    if found is not None:
        yield [label, "default", *_numbers("", found, result)]
    else:  # it failed, stalls or is inaccurate
        name = f"{variant_label(default.configuration.variant)}: {default.outcome.value}"
        yield [label, "default", name, *[""] * 6]
    for name, winner in result.winners.items():
        number = winner.candidate.number
        numbers = _numbers("default" if number is None else str(number), winner.candidate, result)
        yield ["", name.replace("_", " "), *numbers]


def _numbers(trial: str, candidate: Candidate, result: WorkloadResult) -> list[str]:
    variant = candidate.evaluation.configuration.variant
    return [
        variant_label(variant, candidate.measurements.backend_ran),
        trial,
        milliseconds(candidate.latency),
        speed(result.latency_ratio(candidate)),
        mebibytes(candidate.memory),
        size(result.memory_ratio(candidate)),
        f"{candidate.error:.1e}",
    ]
