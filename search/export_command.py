"""The `export` command: write the winners, and say what a model would run."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from search.options.choices import UsageError, choices_from_options
from search.options.command_options import axis_option
from search.options.output_options import QuietOption
from search.options.plugin_option import PluginOption
from search.options.shared_options import DEFAULT_STORAGE, Storage, StudyName
from search.views.loading_lines import print_loading
from search.views.pick_view import print_offer, print_pick
from search.views.terminal import make_console, spoken
from studies.export.document import (
    Admitted,
    build_export,
    export_schema,
    narrowed,
)
from studies.export.split import split
from studies.export.writing import document_text
from studies.results.results import Results, read_results
from studies.storage.files import write_atomically
from studies.study.study import load_study, open_storage
from variants.deploy.loading_schema import CHOICE_OF, Pick, Prefer
from variants.deploy.targets import Target

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
    choices: Annotated[
        int,
        typer.Option(
            min=1,
            help="Divide the workloads among so many single choices, so that none loses much; "
            "writes FILE-1, FILE-2 and so on, each for its own workloads.",
        ),
    ] = 1,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Also fronts, ties, finalists, kernels and conditions of measuring."
        ),
    ] = False,
    max_memory_gib: Annotated[
        float | None,
        typer.Option(
            min=1e-3, metavar="GIB", help="Choose only what has a peak memory of at most this."
        ),
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
    quiet: QuietOption = False,
) -> None:
    """Write the winners as JSON, which `variants.load` turns into attention.

    Where nothing that may be chosen beats PyTorch's default, the default is the choice.
    """
    if schema:
        _write(output, export_schema())
        with spoken(console, quiet=quiet or output is None):
            console.print(f"wrote {output}")
        return
    if choices > 1 and (output is None or pick == "dispatch"):
        raise UsageError(
            f"--choices {choices} must come with --output FILE and --pick single, got "
            + ("--pick dispatch" if pick == "dispatch" else "no --output")
        )
    chosen = choices_from_options({"execution": execution}).get("execution")
    admitted = Admitted(
        max_memory_gib=max_memory_gib,
        executions=None if chosen is None else tuple(map(str, chosen)),
        target=target,
    )
    results = read_results(load_study(open_storage(storage, create=False), study))
    if choices > 1 and output is not None:
        _write_parts(output, results, prefer, admitted, choices, full=full, quiet=quiet)
        return
    document = build_export(results, pick=pick, prefer=prefer, admitted=admitted, full=full)
    _write(output, document_text(document, full=full))
    if output is not None:
        with spoken(console, quiet=quiet):
            console.print(f"wrote {output}")
            print_pick(console, document, results)
            if pick == "single":
                print_offer(console, document, results)
            print_loading(console, document, output)


def _write_parts(
    output: Path,
    results: Results,
    prefer: Prefer,
    admitted: Admitted,
    count: int,
    *,
    full: bool,
    quiet: bool,
) -> None:
    """Write a file for each of some choices, of the workloads that it serves best."""
    parts = split(narrowed(results, admitted), CHOICE_OF[prefer], count)
    for number, part in enumerate(parts, 1):
        mine = {result.workload.key for result in part.results}
        only = replace(
            results,
            workloads=tuple(each for each in results.workloads if each.workload.key in mine),
        )
        document = build_export(
            only, prefer=prefer, admitted=admitted, full=full, worst_first=True
        )
        path = output.with_name(f"{output.stem}-{number}{output.suffix}")
        _write(path, document_text(document, full=full))
        with spoken(console, quiet=quiet):
            console.print(f"wrote {path}")
            print_pick(console, document, only)
    if len(parts) < count:
        with spoken(console, quiet=quiet):
            console.print(f"{len(parts)} choices serve all workloads as well as {count} would")


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
