"""What an exported file claims beside what measuring again gave."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from objectives.schema.evaluation import Evaluation
from studies.export.document import ExportedWorkload
from studies.export.verification import CheckedConfiguration, Claim
from studies.numerics.interval import Interval
from studies.results.labels import variant_label, workload_label


def print_checked(
    console: Console,
    workload: ExportedWorkload,
    checked: Sequence[CheckedConfiguration],
    default: Evaluation | None,
) -> None:
    """Print the claims on one workload, old beside new; `default` as it was measured again."""
    table = Table(title=workload_label(workload.workload, ()), title_justify="left")
    for heading in ("choice", "variant", "claim", "old", "new", ""):
        table.add_column(heading, overflow="fold")
    label = variant_label(workload.default.configuration.variant)
    table.add_row(
        "default", label, "latency ms", _latency(workload.default), _latency(default), ""
    )
    table.add_section()
    for one in checked:
        _add(table, one)
    console.print(table)


def print_claims(console: Console, claims: Sequence[Claim]) -> None:
    """Print how many of all claims hold."""
    broken = sum(bool(claim.broken) for claim in claims)
    unclear = sum(bool(claim.unclear) for claim in claims)
    unchecked = sum(
        claim.new is None and not claim.broken and not claim.unclear for claim in claims
    )
    holding = len(claims) - broken - unclear - unchecked
    if broken:
        verdict = f"{broken} of {len(claims)} claims no longer hold"
    elif unclear:
        verdict = f"no claim is broken, {holding} of {len(claims)} hold"
    else:
        verdict = f"all {holding} claims hold"
    verdict += f", {unclear} are unclear: times vary too much here to tell" if unclear else ""
    verdict += f", {unchecked} more could not be checked" if unchecked else ""
    console.print(verdict, highlight=False)
    if unclear:
        console.print("stop what else runs on this machine, and verify again", highlight=False)


def _latency(evaluation: Evaluation | None) -> str:
    """Return a default's latency with its interval, or what became of it."""
    if evaluation is None:
        return ""
    if evaluation.measurements is None:
        return evaluation.outcome.value
    latency = evaluation.measurements.latency
    return _span(Interval(latency.latency_ms, latency.low_ms, latency.high_ms))


def _add(table: Table, checked: CheckedConfiguration) -> None:
    names = ", ".join(name.replace("_", " ") for name in checked.names)
    label = variant_label(checked.configuration.variant)
    for claim in checked.claims:
        new = "" if claim.new is None else _span(claim.new)
        table.add_row(names, label, claim.what, _span(claim.old), new, _state(claim))
        names = label = ""
    table.add_section()


def _state(claim: Claim) -> str | Text:
    if claim.broken:
        return Text("broken", style="red").append(f": {claim.broken}", style="default")
    if claim.unclear:
        return Text("unclear", style="yellow").append(f": {claim.unclear}", style="default")
    return "holds" if claim.new is not None else "not checked"


def _span(span: Interval) -> str:
    if span.low == span.high:
        return f"{span.value:.4g}"
    return f"{span.value:.3f} ({span.low:.3f} to {span.high:.3f})"
