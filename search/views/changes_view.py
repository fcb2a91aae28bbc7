"""What one choice does instead of another, in a table."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from search.views.effects_view import LABELS
from search.views.layout import NONE, make_table, print_note
from studies.results.labels import multiple
from studies.sensitivity.analysis import FAILURE, LATENCY, MEMORY
from studies.sensitivity.changes import ChoiceEffect
from studies.sensitivity.report import SensitivityReport

# By what happens to memory and to latency, as far as intervals tell.
WAYS = {
    ("less", "less"): "better in both",
    ("more", "more"): "worse in both",
    ("less", "more"): "memory for latency",
    ("more", "less"): "latency for memory",
    ("less", ""): "less memory",
    ("", "less"): "faster",
    ("more", ""): "more memory",
    ("", "more"): "slower",
}
Changes = Mapping[str, ChoiceEffect]  # one choice's, by quantity


def print_changes(console: Console, report: SensitivityReport) -> None:
    """Print every choice against the usual one, and what pairs of trials say of it directly."""
    objectives = report.sensitivity.objectives
    ranked = [name for name, objective in objectives.items() if objective.shares]
    table = make_table("one choice instead of another, all else the same")
    table.add_column("axis", no_wrap=True)
    table.add_column("choice ← instead of", overflow="fold")
    for name in ranked:
        table.add_column(LABELS[name], justify="right")
    if ranked:
        table.add_column("which way")
    table.add_column("pairs", justify="right")
    for name in (MEMORY, LATENCY):
        table.add_column(f"{LABELS[name]} in pairs", justify="right")
    last = ""
    for (axis, choice), changes in _by_choice(report).items():
        first = next(iter(changes.values()))
        if not ranked and not first.pairs:
            continue
        effects = [_effect(name, changes.get(name)) for name in ranked]
        way = [_way(changes)] if ranked else []
        name_once = axis if axis != last else ""
        what = f"{choice} ← {first.reference}"
        table.add_row(name_once, what, *effects, *way, *_pairs(changes))
        last = axis
    if not table.row_count:
        return
    console.print(table)
    if ranked:
        print_note(
            console,
            "×0.41: the geometric mean over all possible configurations of which two differ in "
            "this choice alone, with its 95 % interval.",
        )
    print_note(
        console,
        "pairs: trials that differ in this choice alone, and their geometric mean: measured, but "
        "of configurations that a search chose. They are no average over the space.",
    )


def _by_choice(report: SensitivityReport) -> Mapping[tuple[str, object], Changes]:
    found: dict[tuple[str, object], dict[str, ChoiceEffect]] = {}
    for name, objective in report.sensitivity.objectives.items():
        for change in objective.changes:
            found.setdefault((change.axis, change.choice), {})[name] = change
    return found


def _effect(name: str, change: ChoiceEffect | None) -> str:
    if change is None or change.effect is None:
        return NONE
    effect = change.effect
    if name == FAILURE:
        return f"{effect.value:+.0%} [{effect.low:+.0%}, {effect.high:+.0%}]"
    low, high = multiple(effect.low), multiple(effect.high)
    return f"×{multiple(effect.value)} [{low}, {high}]"


def _way(changes: Changes) -> str:
    words = []
    for name in (MEMORY, LATENCY):
        effect = changes[name].effect if name in changes else None
        if effect is None or effect.low <= 1 <= effect.high:
            words.append("")
        else:
            words.append("less" if effect.high < 1 else "more")
    return WAYS.get((words[0], words[1]), "")


def _pairs(changes: Changes) -> list[str]:
    pairs = changes[MEMORY].pairs if MEMORY in changes else ()
    cells = [str(len(pairs))]
    for name in (MEMORY, LATENCY):
        seen = changes[name].seen if name in changes else None
        cells.append("" if seen is None else f"×{multiple(seen)}")
    return cells
