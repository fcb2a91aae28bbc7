"""Each workload's default and winners as a table of HTML, which notebooks show."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterator, Sequence

from objectives.schema.evaluation import Evaluation
from studies.results.front import WorkloadResult
from studies.results.labels import (
    factor,
    mebibytes,
    milliseconds,
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
    yield [label, "default", *_numbers("", result.default, result)]
    for name, winner in result.winners.items():
        candidate = winner.candidate
        number = "default" if candidate.number is None else str(candidate.number)
        numbers = _numbers(number, candidate.evaluation, result)
        yield ["", name.replace("_", " "), *numbers]


def _numbers(trial: str, evaluation: Evaluation, result: WorkloadResult) -> list[str]:
    """Return variant and numbers; times are those taken in turns where there are such."""
    measured, variant = evaluation.measurements, evaluation.configuration.variant
    if measured is None:
        return [f"{variant_label(variant)}: {evaluation.outcome.value}", trial, *[""] * 5]
    again = result.retimed(variant.key)
    latency_ms, memory_mib = measured.latency.latency_ms, measured.memory.peak_mib
    ratio = latency_ms / result.baseline.latency_ms
    if again is not None:
        latency_ms, ratio = again.latency_ms, again.latency.ratio
    return [
        variant_label(variant, measured.backend_ran),
        trial,
        milliseconds(latency_ms),
        factor(ratio),
        mebibytes(memory_mib),
        factor(memory_mib / result.baseline.peak_memory_mib),
        f"{measured.relative_error:.1e}",
    ]
