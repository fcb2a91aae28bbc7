"""The Goldilocks zone and the next direction, in tables."""

from __future__ import annotations

from rich.console import Console

from search.views.layout import make_table, print_note
from studies.numerics.interval import Interval
from studies.results.labels import trial_name, workload_label
from studies.sensitivity.report import SensitivityReport
from studies.sensitivity.zone import LEAST_GAIN, ZonePart
from variants.program import program


def print_zone(console: Console, report: SensitivityReport, where: str) -> None:
    """Print what survives in the zone, how large it is, and what to try next."""
    _print_choices(console, report)
    _print_workloads(console, report)
    _print_next(console, report, where)


def _print_choices(console: Console, report: SensitivityReport) -> None:
    zone = report.zone
    expected = zone.part.expected is not None
    console.print(
        f"the Goldilocks zone: {zone.part.inside} of {zone.part.usable} usable trials are within "
        f"{zone.tolerance:.0%} of a front point of their workload in memory and in latency",
        style="bold",
        highlight=False,
    )
    table = make_table("")
    table.add_column("axis")
    table.add_column("survives (inside / tried)", overflow="fold")
    table.add_column("never inside (tried)", overflow="fold")
    table.add_column("not tried", overflow="fold")
    for axis in report.evidence.catalogue.choices:
        mine = [choice for choice in zone.choices if choice.axis == axis and choice.part.possible]
        inside = sorted(
            (one for one in mine if one.standing == "in"),
            key=lambda one: -one.part.inside / max(1, one.part.tried),
        )
        table.add_row(
            axis,
            ", ".join(
                f"{one.choice} {one.part.inside}/{one.part.tried}" + _outlook(one.part)
                for one in inside
            ),
            ", ".join(
                f"{one.choice} ({one.part.tried})" + _outlook(one.part)
                for one in mine
                if one.standing == "out"
            ),
            ", ".join(
                f"{one.choice}" + _outlook(one.part) for one in mine if one.standing == "untried"
            ),
        )
    console.print(table)
    if expected:
        print_note(console, "+n: so many untried configurations are expected inside as well.")


def _outlook(part: ZonePart) -> str:
    return "" if part.expected is None else f" +{part.expected.value:.0f}"


def _print_workloads(console: Console, report: SensitivityReport) -> None:
    zone, varying = report.zone, set(report.evidence.catalogue.choices)
    expected = zone.part.expected is not None
    table = make_table("the zone of each workload")
    table.add_column("workload", overflow="fold")
    headings = ["possible", "tried", "front points", "inside", "trials inside"]
    if expected:
        headings.insert(4, "untried, expected inside")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "trials inside" else "right")
    for workload, of in zip(report.evidence.workloads, zone.workloads, strict=True):
        shown = ", ".join(map(trial_name, of.trials[:8])) + (" …" if len(of.trials) > 8 else "")
        cells = [str(of.part.possible), str(of.part.tried), str(of.front), str(of.part.inside)]
        if of.part.expected is not None:
            cells.append(_count(of.part.expected))
        table.add_row(workload_label(workload, varying), *cells, shown)
    console.print(table)
    print_note(
        console, "A front point that is PyTorch's default is no trial, and not counted inside."
    )


def _print_next(console: Console, report: SensitivityReport, where: str) -> None:
    zone = report.zone
    if not zone.proposals:
        console.print("Every possible configuration has been tried.")
        return
    worth = zone.worth_trying
    if not worth:
        console.print(
            "Nothing worth trying is left: no untried configuration is expected to add "
            f"{LEAST_GAIN:.2%} to its workload's hypervolume."
        )
        return
    labels = {
        w.key: workload_label(w, report.evidence.catalogue.choices)
        for w in report.evidence.workloads
    }
    table = make_table("where to look next: the untried configurations that promise most")
    for heading in ("workload", "variant"):
        table.add_column(heading, overflow="fold")
    table.add_column("expected gain", justify="right")
    for proposal in worth:
        table.add_row(labels[proposal.workload], proposal.variant, f"{proposal.gain:.1%}")
    console.print(table)
    print_note(
        console,
        "expected gain: what it is expected to add to its workload's hypervolume, as a share. One "
        "configuration for each of the most promising workloads; the default sampler tries them "
        "first, but for probes:",
    )
    trials = len(report.evidence.observations.tried) + 50
    console.print(f"  {program()} run {where} --trials {trials}", highlight=False, soft_wrap=True)


def _count(interval: Interval) -> str:
    return f"{interval.value:.0f} [{interval.low:.0f}, {interval.high:.0f}]"
