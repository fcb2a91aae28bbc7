"""The `export` command: write the winners, and say what a model would run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from search.options.choices import UsageError, choices_from_options
from search.options.command_options import axis_option
from search.options.plugin_option import PluginOption
from search.options.shared_options import DEFAULT_STORAGE, Storage, StudyName
from search.views.layout import number_table
from search.views.terminal import make_console
from studies.export.document import Admitted, Export, ExportedChoice, build_export, export_schema
from studies.results.labels import (
    mebibytes,
    milliseconds,
    size,
    speed,
    variant_label,
    workload_label,
)
from studies.results.results import Results, read_results
from studies.storage.files import write_atomically
from studies.study.study import load_study, open_storage
from variants.deploy.loading_schema import CHOICE_OF, Pick, Prefer
from variants.deploy.targets import Target, obstacle_to, target_label

console = make_console()


def export(
    study: StudyName = None,
    storage: Storage = DEFAULT_STORAGE,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Standard output if not given.")
    ] = None,
    pick: Annotated[
        Pick,
        typer.Option(
            help="What loading takes: one precision, quantization, cache, kv_dtype and gqa for "
            "all workloads, or the winner of each. Both are written."
        ),
    ] = "single",
    prefer: Annotated[
        Prefer, typer.Option(help="Which winners loading takes. All are written.")
    ] = "balanced",
    max_memory_gib: Annotated[
        float | None,
        typer.Option(min=1e-3, help="Choose only what has a peak memory of at most this."),
    ] = None,
    execution: Annotated[str | None, axis_option("execution")] = None,
    target: Annotated[
        Target | None,
        typer.Option(
            help="Choose only what runs there as it was measured: in a layer of your own, or in "
            "a model of transformers, launched kernel by kernel or with its decode steps "
            "captured. Anywhere if not given."
        ),
    ] = None,
    plugin: PluginOption = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema.")] = False,
) -> None:
    """Write the winners as JSON, which `variants.load` turns into attention.

    Where nothing that may be chosen beats PyTorch's default, the default is the choice.
    """
    if schema:
        _write(output, export_schema())
        return
    chosen = choices_from_options({"execution": execution}).get("execution")
    admitted = Admitted(
        max_memory_gib=max_memory_gib,
        executions=None if chosen is None else tuple(map(str, chosen)),
        target=target,
    )
    results = read_results(load_study(open_storage(storage, create=False), study))
    document = build_export(results, pick=pick, prefer=prefer, admitted=admitted)
    _write(output, document.model_dump_json(indent=2) + "\n")
    if output is not None:
        print_pick(console, document, results)


def _write(output: Path | None, text: str) -> None:
    if output is None:
        sys.stdout.write(text)
        return
    try:
        write_atomically(output, text)
    except OSError as error:
        raise UsageError(
            f"--output must be a file that can be written, got {output}: {error.strerror}"
        ) from None
    console.print(f"wrote {output}")


def print_pick(console: Console, document: Export, results: Results) -> None:
    """Print what loading will take for each workload, and what one choice for all costs."""
    name = CHOICE_OF[document.prefer]
    single = document.single[name]
    by_key = {c.configuration.workload.key: c for c in single.choices}
    regrets = dict(zip(by_key, single.regrets, strict=True))
    numbers = ("latency ms", "faster", "peak MiB", "smaller")
    table = number_table(
        console,
        f"to load: pick {document.pick}, prefer {document.prefer}",
        "workload",
        (*numbers, *(("regret",) if document.pick == "single" else ())),
    )
    varying = set(results.plan.space.searched)
    chosen: dict[str, ExportedChoice] = {}
    for entry in document.workloads:
        key = entry.workload.key
        label = workload_label(entry.workload, varying)
        choice = by_key.get(key) if document.pick == "single" else entry.choices.get(name)
        if choice is None:
            table.add_row(label, "nothing measured")
            continue
        chosen[label] = choice
        measured = choice.measurements
        row = [
            label,
            variant_label(choice.configuration.variant, choice.resolved_backend),
            milliseconds(measured.latency.latency_ms),
            speed(choice.latency_vs_default),
            mebibytes(measured.memory.peak_mib),
            size(choice.memory_vs_default),
        ]
        table.add_row(*row, *([f"{regrets[key]:.1%}"] if document.pick == "single" else []))
    console.print(table)
    _print_targets(console, document, chosen)
    console.print(
        f"one choice for all workloads: {single.model.label}; regret against each workload's own "
        f"winner: mean {single.mean_regret:.1%}, worst {single.worst_regret:.1%}",
        highlight=False,
    )
    if single.missing:
        console.print(
            f"it was not measured for {len(single.missing)} of {len(document.workloads)} "
            f"workloads, nor was any other choice for all: more trials, or fewer axes, would tell",
            style="yellow",
        )


def _print_targets(
    console: Console, document: Export, chosen: Mapping[str, ExportedChoice]
) -> None:
    """Print where each choice can be deployed, and which of them are the default."""
    kind = document.environment.device.kind
    one_for_all = document.pick == "single" and len(document.workloads) > 1
    what = "no one choice for all workloads" if one_for_all else "nothing that may be chosen"
    for label, choice in chosen.items():
        if choice.trial is None:
            text = f"{label}: {what} beats the default, which is the choice"
        else:
            where = ", ".join(target_label(target) for target in choice.targets)
            text = f"{label}: can be deployed as {where}"
            captured = obstacle_to("transformers-captured", choice.configuration, kind)
            text += f" (transformers captured: {captured})" if captured else ""
            if choice.latency_vs_default > 1 and choice.memory_vs_default >= 1:
                text += "; it loses to the default here, which one choice for all costs"
        console.print(text, highlight=False)
