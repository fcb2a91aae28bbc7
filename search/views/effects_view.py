"""What drives memory and latency, in tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table

from search.views.layout import NONE, make_table, print_note
from studies.numerics.interval import Interval
from studies.results.labels import workload_label
from studies.sensitivity.analysis import FAILURE, LATENCY, MEMORY, Objective
from studies.sensitivity.effects import LEAST_SHARE, Share
from studies.sensitivity.importances import MOST_TRIALS
from studies.sensitivity.quality import FLOOR, LEAST_PROBES
from studies.sensitivity.report import SensitivityReport
from variants.program import program

LABELS = {MEMORY: "memory", LATENCY: "latency", FAILURE: "failure"}
MOST_INTERACTIONS = 5


def print_effects(console: Console, report: SensitivityReport, where: str) -> None:
    """Print how far the surrogate can be believed, and what it says; `where` names the study."""
    found, observations = report.sensitivity, report.evidence.observations
    console.print(
        f"study {report.study_name}: {len(observations.tried)} of {found.possible} possible "
        f"configurations tried, {found.probes} of them probes",
        highlight=False,
    )
    if text := found.extent.text(found.possible):
        console.print(text, highlight=False)
    _print_quality(console, report, where)
    ranked = {name: one for name, one in found.objectives.items() if one.shares}
    if ranked:
        _print_shares(console, report, ranked)
        _print_interactions(console, ranked)


def _print_quality(console: Console, report: SensitivityReport, where: str) -> None:
    objectives = report.sensitivity.objectives
    table = make_table("can the surrogate be believed? R² of probe trials that it had not seen")
    table.add_column("of")
    for heading in ("trials", "probes", "R²", "rank corr.", "roofline alone", "verdict"):
        table.add_column(heading, justify="left" if heading == "verdict" else "right")
    more = 0
    for name, objective in objectives.items():
        quality = objective.quality
        shown = [NONE if quality.r_squared is None else _number(quality.r_squared)]
        for value in (quality.spearman, quality.prior_r_squared):
            shown.append(NONE if value is None else f"{value:.2f}")
        failed = len(report.evidence.observations.failed)
        if name == FAILURE and not failed:
            verdict = "no trial failed"
        elif quality.exact:
            verdict = "exact: everything possible was measured"
        else:
            verdict = "ranked" if quality.refusal is None else f"not ranked: {quality.refusal}"
            more = max(more, quality.more_probes if name != FAILURE else 0)
        cells = str(quality.trials), str(quality.probes)
        table.add_row(LABELS[name], *cells, *shown, verdict)
    console.print(table)
    _print_left_out(console, objectives)
    if more:
        console.print(
            f"Nothing is ranked by fewer than {LEAST_PROBES} probes or below an R² of {FLOOR}: "
            "trials that an optimizer chose flatter the surrogate and mislead about the rest of "
            f"the space. {more} more probes would help:"
        )
        console.print(f"  {program()} run {where} --probe {more}", highlight=False, soft_wrap=True)
    for name, objective in objectives.items():
        if objective.prior_share is not None:
            console.print(
                f"{LABELS[name]}: the roofline's arithmetic accounts for "
                f"{objective.prior_share:.0%} of the predicted variance, measurements for the rest"
            )


def _print_left_out(console: Console, objectives: Mapping[str, Objective]) -> None:
    for name, objective in objectives.items():
        quality = objective.quality
        if quality.left_out:
            print_note(
                console,
                f"{LABELS[name]}: learnt from {quality.trials:,} of "
                f"{quality.trials + quality.left_out:,} trials, {quality.probes:,} probes and "
                "others evenly. Pairs of trials and the zone are of all.",
            )


def _print_shares(
    console: Console, report: SensitivityReport, ranked: Mapping[str, Objective]
) -> None:
    evidence = report.evidence
    table = make_table("what drives them: share of the variance over all possible configurations")
    table.add_column("axis")
    for name in ranked:
        table.add_column(f"{LABELS[name]}: alone", justify="right")
        table.add_column("with others", justify="right")
    names = [share.axis for share in next(iter(ranked.values())).shares]
    blocks = {
        "workload: what has to be served": [
            n for n in names if n not in evidence.catalogue.decided
        ],
        "variant: what can be decided": [n for n in names if n in evidence.catalogue.decided],
    }
    for block, axes in blocks.items():
        if axes:
            table.add_row(block, style="bold")
            _add_shares(table, axes, {name: one.shares for name, one in ranked.items()})
    if all(blocks.values()):
        decided = blocks["variant: what can be decided"]
        table.add_row("variant, inside a workload", style="bold")
        _add_shares(table, decided, {name: one.decisions for name, one in ranked.items()})
    console.print(table)
    for name, one in ranked.items():
        if one.workloads is not None and all(blocks.values()):
            console.print(
                f"{LABELS[name]}: {_percent(one.workloads)} of the variance is between workloads"
            )
    determined = report.sensitivity.determined
    if determined:
        console.print(
            f"determined by other axes, and never changed alone: {', '.join(determined)}"
        )
    print_note(
        console,
        "alone: how far the mean moves with the axis. with others: what is left to the axis when "
        "all others are fixed, so interactions count for each of theirs. Variance is that of the "
        "logarithm (of failure: of its probability). In brackets: 95 % intervals.",
    )


def _add_shares(
    table: Table, axes: Iterable[str], shares: Mapping[str, tuple[Share, ...]]
) -> None:
    by_axis = {name: {share.axis: share for share in of} for name, of in shares.items()}
    for axis in axes:
        cells = []
        for of in by_axis.values():
            cells += [_percent(of[axis].alone), _percent(of[axis].total)]
        table.add_row(f"  {axis}", *cells)


def _print_interactions(console: Console, ranked: Mapping[str, Objective]) -> None:
    table = make_table("strongest interactions: share of the variance that two axes make together")
    for name in ranked:
        table.add_column(LABELS[name])
        table.add_column("share", justify="right")
    columns = []
    for one in ranked.values():
        pairs = [p for p in one.interactions[:MOST_INTERACTIONS] if p.share.value >= LEAST_SHARE]
        columns.append([(" × ".join(pair.axes), _percent(pair.share)) for pair in pairs])
    for row in range(max(map(len, columns), default=0)):
        cells = [column[row] if row < len(column) else ("", "") for column in columns]
        table.add_row(*[cell for pair in cells for cell in pair])
    if table.row_count:
        console.print(table)


def print_workloads(console: Console, report: SensitivityReport) -> None:
    """Print the shares of the variant's axes in each workload, where they were asked for."""
    varying = set(report.evidence.catalogue.choices)
    for objective in report.sensitivity.objectives.values():
        if objective.by_workload is None:
            continue
        table = make_table(f"{LABELS[objective.name]}, workload by workload: share with others")
        table.add_column("workload", overflow="fold")
        axes = [share.axis for share in objective.decisions]
        for axis in axes:
            table.add_column(axis, justify="right")
        for workload in report.evidence.workloads:
            if workload.key in objective.by_workload:
                of = {share.axis: share for share in objective.by_workload[workload.key]}
                cells = [_percent(of[axis].total) for axis in axes]
                table.add_row(workload_label(workload, varying), *cells)
        console.print(table)


def print_importances(console: Console, report: SensitivityReport) -> None:
    """Print what Optuna's evaluators say, and what they answer."""
    if not report.importances:
        return
    table = make_table(
        "Optuna's importances, as its dashboard shows them: they answer other questions"
    )
    table.add_column("axis")
    columns = [(one, objective) for one in report.importances for objective in one.of]
    for one, objective in columns:
        table.add_column(f"{one.evaluator}: {LABELS[objective]}", justify="right")
    for axis in report.evidence.catalogue.choices:
        values = [one.of[objective].get(axis) for one, objective in columns]
        table.add_row(axis, *[NONE if value is None else f"{value:.0%}" for value in values])
    console.print(table)
    for one in report.importances:
        print_note(console, f"{one.evaluator}: {one.answers}.")
    if report.importances[0].trials == MOST_TRIALS:
        print_note(
            console, f"They are given {MOST_TRIALS:,} usable trials at most, evenly chosen."
        )
    print_note(console, "Both know the trials alone, as they were chosen. –: not in every trial.")


def _percent(interval: Interval) -> str:
    if interval.low == interval.high:
        return f"{interval.value:.0%}"
    return f"{interval.value:.0%} [{interval.low * 100:.0f}, {interval.high * 100:.0f}]"


def _number(interval: Interval) -> str:
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
