"""What loading an exported file takes, and what one choice for all workloads costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from rich.console import Console

from search.views.layout import number_table
from studies.export.document import Export, ExportedChoice, ExportedSingle, narrowed
from studies.export.split import split
from studies.results.labels import (
    first_of,
    gain,
    mebibytes,
    milliseconds,
    percent,
    size,
    speed,
    variant_label,
    workload_label,
)
from studies.results.results import Results
from studies.study.verdicts import word_of
from variants.configuration import Configuration
from variants.deploy.loading_schema import CHOICE_OF, Prefer
from variants.deploy.targets import obstacle_to, target_label

# What a regret is of.
_OF: Mapping[Prefer, str] = {
    "latency": "latency",
    "memory": "peak memory",
    "balanced": "latency and peak memory (geometric mean)",
}
_BAD = 0.5  # a regret of which a warning tells
_WARNINGS = 6  # lines, at most
_OFFERED = 0.05  # a worst regret that is worth a second choice


def print_pick(console: Console, document: Export, results: Results) -> None:
    """Print what loading will take for each workload, and what one choice for all costs."""
    name = CHOICE_OF[document.prefer]
    single = document.single[name]
    is_single = document.pick == "single"
    table = number_table(
        console,
        f"to load: pick {document.pick}, prefer {document.prefer}",
        "workload",
        ("latency ms", "faster", "peak MiB", "smaller", *(("regret",) if is_single else ())),
        words=("faster", "smaller"),
    )
    labels = _labels(document, results)
    chosen = dict(zip(labels, _picked(document), strict=True))
    for (label, choice), regret in zip(chosen.items(), single.regrets, strict=True):
        if choice is None:
            table.add_row(label, "nothing measured")
            continue
        measured = choice.measurements
        row = [
            label,
            variant_label(choice.variant, choice.resolved_backend),
            milliseconds(measured.latency.latency_ms),
            speed(1 / choice.speedup),
            mebibytes(measured.memory.peak_mib),
            size(1 / choice.memory_reduction),
        ]
        table.add_row(*row, *([percent(regret or 0.0)] if is_single else []))
    console.print(table)
    for text, those in _targets(document, chosen).items():
        console.print(f"{_some(those, len(labels))}: {text}", highlight=False)
    if is_single:
        _print_single(console, document, single, labels)


def print_offer(console: Console, document: Export, results: Results) -> None:
    """Print what two choices instead of one would cut the worst regret to, where that is less."""
    name, labels = CHOICE_OF[document.prefer], _labels(document, results)
    worst = document.single[name].worst_regret
    if worst < _OFFERED:
        return
    parts = split(narrowed(results, document.admitted), name, 2)
    left = max(part.single.worst_regret for part in parts)
    if len(parts) < 2 or left > worst / 2:
        return
    by_key = dict(zip((w.workload.key for w in document.workloads), labels, strict=True))
    console.print(
        f"two choices would cut the worst regret from {percent(worst)} to {percent(left)} "
        "(--choices 2 writes a file for each):",
        highlight=False,
    )
    for part in parts:
        those = [by_key[result.workload.key] for result in part.results]
        console.print(
            f"  {part.single.model.label} for {_some(those, len(labels))}", highlight=False
        )


def _labels(document: Export, results: Results) -> list[str]:
    varying = set(results.plan.space.searched)
    return [workload_label(entry.workload, varying) for entry in document.workloads]


def _picked(document: Export) -> list[ExportedChoice | None]:
    name = CHOICE_OF[document.prefer]
    if document.pick == "single":
        return document.of_single(name)
    return [entry.chosen.get(name) for entry in document.workloads]


def _some(those: list[str], count: int) -> str:
    """Return the names of some workloads of so many, in few words."""
    if len(those) == count:
        return "all workloads" if count > 1 else those[0]
    return first_of(those)


def _targets(
    document: Export, chosen: Mapping[str, ExportedChoice | None]
) -> dict[str, list[str]]:
    """Return where choices can be deployed, and the workloads of which that is true."""
    kind = document.environment.device.kind
    one_for_all = document.pick == "single" and len(document.workloads) > 1
    what = "no one choice for all workloads" if one_for_all else "nothing that may be chosen"
    found: dict[str, list[str]] = {}
    for (label, choice), entry in zip(chosen.items(), document.workloads, strict=True):
        if choice is None:
            continue
        if choice.trial is None:
            text = f"{what} beats the default, which is the choice"
        else:
            where = ", ".join(target_label(target) for target in choice.targets)
            configuration = Configuration(workload=entry.workload, variant=choice.variant)
            captured = obstacle_to("transformers-captured", configuration, kind)
            text = f"can be deployed as {where}"
            text += f" (transformers captured: {captured})" if captured else ""
        found.setdefault(text, []).append(label)
    return found


def _print_single(
    console: Console, document: Export, single: ExportedSingle, labels: list[str]
) -> None:
    if len(labels) > 1:
        console.print(f"one choice for all workloads: {single.model.label}", highlight=False)
        regrets = [regret or 0.0 for regret in single.regrets]
        console.print(
            f"regret: by how much a workload's {_OF[document.prefer]} are above those of its own "
            f"winner; mean {percent(single.mean_regret)}, worst {percent(single.worst_regret)} "
            f"({labels[regrets.index(max(regrets))]})",
            highlight=False,
        )
    warnings = list(_warnings(document, single, labels))
    for line in warnings[:_WARNINGS]:
        console.print(line, style="yellow", highlight=False)
    if len(warnings) > _WARNINGS:
        console.print(f"and {len(warnings) - _WARNINGS} such workloads more", style="yellow")
    if single.missing:
        console.print(
            f"it was not measured for {len(single.missing)} of {len(document.workloads)} "
            f"workloads, nor was any other choice for all: more trials, or fewer axes, would tell",
            style="yellow",
        )


def _warnings(document: Export, single: ExportedSingle, labels: list[str]) -> Iterator[str]:
    """Yield a line for each workload that one choice for all serves badly, the worst first."""
    found = []
    name = CHOICE_OF[document.prefer]
    for label, choice, regret in zip(
        labels, document.of_single(name), single.regrets, strict=True
    ):
        if choice is None or choice.trial is None:
            continue
        numbers = (
            f"{gain(1 / choice.speedup, 'faster', 'slower')}, "
            f"{gain(1 / choice.memory_reduction, 'smaller', 'larger')}"
        )
        if _loses(choice, document.prefer):
            line = f"warning: {label}: the one choice loses to the default there ({numbers})"
            found.append((-math.inf, line))
        elif regret is not None and regret > _BAD:
            line = f"warning: {label}: its own winner is far better, regret {percent(regret)}"
            found.append((-regret, line))
    yield from (line for _, line in sorted(found))


def _loses(choice: ExportedChoice, prefer: Prefer) -> bool:
    """Tell whether the file's own numbers show a choice to lose to the default."""
    ratio, low, high = (
        1 / each for each in (choice.speedup, choice.speedup_high, choice.speedup_low)
    )
    slower = choice.speedup < 1 and word_of(ratio, low, high) != "same"
    if prefer == "latency":
        return slower
    if prefer == "memory":
        return choice.memory_reduction < 1
    return slower or choice.speedup * choice.memory_reduction < 1
