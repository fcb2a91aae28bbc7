"""The note that optuna-dashboard opens a study with: Markdown, kept up to date by runs."""

from __future__ import annotations

import optuna

from studies.results.command import in_lines, run_command
from studies.results.front import PREFERENCES, WorkloadResult
from studies.results.labels import (
    choice_name,
    mebibytes,
    milliseconds,
    size,
    speed,
    trial_name,
    variant_label,
    workload_label,
)
from studies.results.results import Results
from studies.results.summary import summary
from studies.sensitivity.evaluators import ANSWERS
from variants.program import program

# What a user writes below it is kept.
END = "*Above: written by goldilocks, anew at each update. Below is yours.*"
_HEADINGS = (
    *("workload", "choice", "variant", "trial", "latency ms"),
    *("faster", "peak MiB", "smaller", "error"),
)
_DASHBOARDS = "PED-ANOVA"  # the evaluator that optuna-dashboard calls
_WORKLOADS = 40  # in the table; the report shows all of a larger study


def save_summary(study: optuna.Study, results: Results) -> None:
    """Store the note, if it differs from the one that is there."""
    from optuna_dashboard import get_note, save_note  # takes seconds to import

    before = get_note(study)
    _, separator, own = before.partition(END)
    body = summary_note(results) + "\n\n" + END + (own if separator else _kept(before))
    if body != before:
        save_note(study, body)


def _kept(before: str) -> str:
    """Return a note that was written before there was one of ours."""
    return f"\n\n{before}" if before.strip() else "\n"


def summary_note(results: Results) -> str:
    """Return verdict, device, best configurations, outcomes and command."""
    environment, device = results.environment, results.environment.device
    software = [f"torch {device.torch}"]
    if environment.driver is not None:
        software.append(f"driver {environment.driver}")
    outcomes = ", ".join(f"{n} {outcome.value}" for outcome, n in results.outcomes.most_common())
    parts = [
        f"**{_escaped(summary(results))}**",
        f"{_escaped(device.name)}, {', '.join(software)}. {len(results.trials)} trials told so far"
        + (f": {outcomes}." if outcomes else "."),
        _table(results),
        "Faster, smaller: the default's number divided by the winner's. Trials without values "
        "(PRUNED) did not measure, or were not accurate or usable: their `outcome` and `reason` "
        "say why.",
        _reading(results),
        f"```bash\n{in_lines(run_command(results))}\n```",
    ]
    return "\n\n".join(part for part in parts if part)


def _reading(results: Results) -> str:
    """Return what the dashboard's own parts answer, where that is another question than ours."""
    parts = []
    if len(results.workloads) > 1:
        parts.append(
            "**Best Trials** are those on each workload's own front, one workload after another, "
            f"where `{program()} dashboard` serves this page. Another server of optuna-dashboard, "
            "and **Pareto Front** always, take all workloads together: values are shares of each "
            "workload's own default, so one workload's best can hide another's. The table above "
            "and *Fronts* below the plots have each workload's own."
        )
    parts.append(
        f"**Hyperparameter Importance** is {_DASHBOARDS}: {ANSWERS[_DASHBOARDS]}. It asks "
        "another question than *What drives memory and latency* "
        f"(`{program()} sensitivity`), may rank axes otherwise, and has no intervals: that "
        "one is of all possible configurations, judged by probes."
    )
    return "\n\n".join(parts)


def _table(results: Results) -> str:
    varying = set(results.plan.space.searched)
    rows = [f"| {' | '.join(_HEADINGS)} |", "|---" * 3 + "|---:" * 6 + "|"]
    for result in results.workloads[:_WORKLOADS]:
        rows += _rows(result, workload_label(result.workload, varying))
    left = len(results.workloads) - _WORKLOADS
    more = f"\n\n{left} more workloads: `{program()} report`" if left > 0 else ""
    return "\n".join(rows) + more if len(rows) > 2 else ""


def _rows(result: WorkloadResult, label: str) -> list[str]:
    """Return a row for each choice; those that fall on one configuration share it."""
    rows = []
    names: dict[str, list[str]] = {}
    for preference in PREFERENCES:
        if preference in result.winners:
            won = result.winners[preference]
            names.setdefault(won.candidate.evaluation.configuration.key, []).append(
                choice_name(preference, clear=won.clear)
            )
    for preference in PREFERENCES:
        if preference not in result.winners:
            continue
        winner = result.winners[preference].candidate
        shared = names.pop(winner.evaluation.configuration.key, None)
        if shared is None:
            continue
        measured = winner.measurements
        cells = [
            label,
            ", ".join(shared),
            variant_label(winner.evaluation.configuration.variant, measured.backend_ran),
            trial_name(winner.number),
            milliseconds(winner.latency),
            speed(result.latency_ratio(winner)),
            mebibytes(winner.memory),
            size(result.memory_ratio(winner)),
            f"{measured.relative_error:.2g}",
        ]
        rows.append(f"| {' | '.join(map(_escaped, cells))} |")
        label = ""
    return rows


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it is."""
    for mark in "\\|*_`[]<>":
        text = text.replace(mark, "\\" + mark)
    return text
