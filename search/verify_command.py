"""The `verify` command: does an exported file still tell the truth, here and now?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from objectives.schema.environment import Environment
from objectives.schema.errors import first_error
from objectives.schema.evaluation import Evaluation
from objectives.timing.host_scaling import at_full_speed, full_speed_of, turns_at_full_speed
from objectives.trial.bench import Bench, DeviceBench
from search.options.choices import UsageError
from search.options.plugin_option import PluginOption
from search.options.shared_options import DeviceOption
from search.verify_in_model import NEW_TOKENS, ROUNDS, InModelSettings, try_in_model
from search.views.terminal import make_console
from studies.export.document import Export, ExportedWorkload
from studies.export.verification import (
    CheckedConfiguration,
    Claim,
    check,
    choices_of,
    configurations_of,
)
from studies.numerics.interval import Interval
from studies.results.labels import variant_label, workload_label
from studies.study.finalists import judge_finalists
from variants.device import DeviceKind
from variants.plugins import missing_plugins

console = make_console()
_LARGEST_FILE = 2**28  # bytes; an export has kilobytes


def verify(
    file: Annotated[Path, typer.Argument(metavar="best.json", help="What `export` wrote.")],
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Also on another GPU than the file's.")
    ] = False,
    device: DeviceOption = "auto",
    plugin: PluginOption = None,
    in_model: Annotated[
        str | None,
        typer.Option(
            "--in-model",
            metavar="NAME|PATH",
            help="Generate with default and winner in a whole model instead: a name as of "
            "--model, a config.json in Hugging Face's format, or the folder of a model. Weights "
            "are random where there are none.",
        ),
    ] = None,
    prompt: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of each prompt.", show_default="the exported workload's"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Prompts.", show_default="the exported workload's")
    ] = None,
    new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens a prompt that are timed.", show_default=f"{NEW_TOKENS}"),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(min=1, help="Of the model.", show_default="as many as fit in memory"),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="Turns of default and winner.", show_default=f"{ROUNDS}"),
    ] = None,
) -> None:
    """Measure an exported file's winners and defaults again: old against new.

    Exit status 1 when a claim no longer holds: a speed-up is gone beyond the intervals, memory
    has grown, or a winner is inaccurate or fails. With --in-model, when the winner is slower than
    the default in the model; a promise that is off by more than a tenth is said, no more.
    """
    document = read_export(file)
    kind: DeviceKind | None = None if device == "auto" else device
    if in_model is not None:
        settings = InModelSettings(
            in_model, prompt, batch, new_tokens or NEW_TOKENS, layers, rounds or ROUNDS
        )
        if not _holds_in_model(document, file, kind, settings, anyway=anyway):
            raise typer.Exit(1)
        return
    alone = {"prompt": prompt, "batch": batch, "new-tokens": new_tokens, "layers": layers}
    for option, given in (alone | {"rounds": rounds}).items():
        if given is not None:
            raise UsageError(f"--{option} must come with --in-model, got --{option} {given} alone")
    bench = DeviceBench(
        document.study.limits,
        seed=document.study.seed,
        device=kind,
    )
    try:
        differences = _admit(document.environment, bench.environment(), file, anyway=anyway)
        for difference in differences:
            console.print(f"differs: {difference}", highlight=False, soft_wrap=True)
        claims = [
            claim
            for workload in document.workloads
            for one in verify_workload(console, bench, document, workload)
            for claim in one.claims
        ]
    finally:
        bench.close()
    broken = sum(bool(claim.broken) for claim in claims)
    unchecked = sum(claim.new is None and not claim.broken for claim in claims)
    held = f"all {len(claims) - unchecked} claims hold"
    held += f", {unchecked} more could not be checked" if unchecked else ""
    console.print(f"{broken} of {len(claims)} claims no longer hold" if broken else held)
    if broken:
        raise typer.Exit(1)


def _holds_in_model(
    document: Export,
    file: Path,
    kind: DeviceKind | None,
    settings: InModelSettings,
    *,
    anyway: bool,
) -> bool:
    """Try the winner in a whole model; tells whether it is worth it there."""
    # The study's limit of memory is that of a layer.
    limits = document.study.limits.model_copy(update={"max_memory_gib": None})
    stages = make_console(stderr=True)
    bench = DeviceBench(
        limits,
        seed=document.study.seed,
        device=kind,
        on_stage=lambda stage: stages.print(stage, style="dim", highlight=False),
    )
    try:
        for difference in _admit(document.environment, bench.environment(), file, anyway=anyway):
            console.print(f"differs: {difference}", highlight=False, soft_wrap=True)
        return try_in_model(console, bench, document, file, settings, other_device=anyway)
    finally:
        bench.close()


def read_export(file: Path) -> Export:
    """Return an exported document.

    Raises:
        UsageError: It cannot be read, or is none.
    """
    try:
        if file.stat().st_size > _LARGEST_FILE:
            raise UsageError(f"{file} is too large to be an export")
        document = Export.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UsageError(f"{file} must be a file that can be read: {error.strerror}") from None
    except ValidationError as error:
        raise UsageError(f"{file} is not an export: {first_error(error)}") from None
    if not any(choices_of(document, workload) for workload in document.workloads):
        raise UsageError(f"{file} must hold a choice for a workload, got none: nothing to verify")
    if missing := missing_plugins(document.plugins):
        raise UsageError(f"{file} was made with --plugin {', '.join(missing)}; name the same file")
    return document


def _admit(there: Environment, here: Environment, file: Path, *, anyway: bool) -> list[str]:
    """Return how the environments differ.

    Raises:
        UsageError: The file's numbers are those of another device.
    """
    if (there.device.kind, there.device.name) != (here.device.kind, here.device.name) and not (
        anyway
    ):
        raise UsageError(
            f"{file} was measured on {there.device.name}, this is {here.device.name}: its times "
            "say nothing here; --anyway measures all the same"
        )
    return there.differences(here)


def verify_workload(
    console: Console, bench: Bench, document: Export, workload: ExportedWorkload
) -> list[CheckedConfiguration]:
    """Measure a workload's default and choices again, and print and return what came of it."""
    choices = choices_of(document, workload)
    if not choices:
        return []
    configurations = configurations_of(workload, choices)
    stored = [choice.measurements for choice in choices.values()]
    if workload.default.measurements is not None:
        stored.append(workload.default.measurements)
    full_ms = full_speed_of(each.latency for each in stored)
    measured = {each: at_full_speed(bench.evaluate(each), full_ms) for each in configurations}
    turns = judge_finalists(
        turns_at_full_speed(bench.compare(configurations), measured.values()),
        reference=workload.default.configuration.variant.key,
        after_trial=-1,
    )
    checked = check(workload, choices, measured, turns, document.study.limits)
    table = Table(title=workload_label(workload.workload, ()), title_justify="left")
    for heading in ("choice", "variant", "claim", "old", "new", ""):
        table.add_column(heading, overflow="fold")
    again = measured.get(workload.default.configuration)
    _add_default(
        table,
        variant_label(workload.default.configuration.variant),
        _latency(workload.default),
        _latency(again),
    )
    for one in checked:
        _add(table, one)
    console.print(table)
    return checked


def _add_default(table: Table, label: str, old: str, new: str) -> None:
    table.add_row("default", label, "latency ms", old, new, "")
    table.add_section()


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
    return "holds" if claim.new is not None else "not checked"


def _span(span: Interval) -> str:
    if span.low == span.high:
        return f"{span.value:.4g}"
    return f"{span.value:.3f} ({span.low:.3f} to {span.high:.3f})"
