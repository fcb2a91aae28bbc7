"""The `verify` command: does an exported file still tell the truth, here and now?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from search.documents.verify_document import (
    InModelDocument,
    VerifyDocument,
    checked_choices,
    checked_default,
    in_model_document,
)
from search.options.choices import UsageError
from search.options.output_options import JsonOption, QuietOption
from search.options.plugin_option import PluginOption
from search.options.shared_options import DeviceOption
from search.verify_in_model import NEW_TOKENS, ROUNDS, InModelSettings, try_in_model
from search.views.terminal import aloud, make_console, print_json, spoken
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
        typer.Option(
            min=1,
            metavar="N",
            help="Tokens of each prompt.",
            show_default="the exported workload's",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Prompts.", show_default="the exported workload's"),
    ] = None,
    new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Tokens a prompt that are timed.",
            show_default=f"{NEW_TOKENS}",
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Of the model.", show_default="as many as fit in memory"
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Turns of default and winner.", show_default=f"{ROUNDS}"
        ),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
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
        with spoken(console, as_json=as_json, quiet=quiet):
            came = _holds_in_model(document, file, kind, settings, anyway=anyway)
        if as_json:
            print_json(came)
        if came.slower:
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
        with spoken(console, as_json=as_json, quiet=quiet):
            found = _verified(bench, document, file, anyway=anyway)
            with aloud(console, aloud=not as_json):
                _print_sum(found)
    finally:
        bench.close()
    if as_json:
        print_json(found)
    if found.broken:
        raise typer.Exit(1)


def _verified(bench: Bench, document: Export, file: Path, *, anyway: bool) -> VerifyDocument:
    """Measure all again, print workload after workload, and return what came of it."""
    here = bench.environment()
    differences = _admit(document.environment, here, file, anyway=anyway)
    for difference in differences:
        console.print(f"differs: {difference}", highlight=False, soft_wrap=True)
    again = [
        verify_workload(console, bench, document, workload) for workload in document.workloads
    ]
    claims = [claim for one in again for each in one.checked for claim in each.claims]
    return VerifyDocument(
        command="verify",
        file=str(file),
        environment=here,
        differences=tuple(differences),
        claims=len(claims),
        broken=sum(bool(claim.broken) for claim in claims),
        unchecked=sum(claim.new is None and not claim.broken for claim in claims),
        defaults=tuple(checked_default(one.workload, one.default) for one in again if one.checked),
        choices=tuple(
            choice for one in again for choice in checked_choices(one.workload, one.checked)
        ),
    )


def _print_sum(found: VerifyDocument) -> None:
    """Print how many claims hold."""
    held = f"all {found.claims - found.unchecked} claims hold"
    held += f", {found.unchecked} more could not be checked" if found.unchecked else ""
    broken = f"{found.broken} of {found.claims} claims no longer hold"
    console.print(broken if found.broken else held)


def _holds_in_model(
    document: Export,
    file: Path,
    kind: DeviceKind | None,
    settings: InModelSettings,
    *,
    anyway: bool,
) -> InModelDocument:
    """Try the winner in a whole model, and return what came of it."""
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
        differences = _admit(document.environment, bench.environment(), file, anyway=anyway)
        for difference in differences:
            console.print(f"differs: {difference}", highlight=False, soft_wrap=True)
        tried = try_in_model(console, bench, document, file, settings, other_device=anyway)
        return in_model_document(
            str(file),
            differences,
            tried.job,
            tried.found,
            tried.promises,
            tried.no_promise,
            slower=tried.slower,
        )
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


@dataclass(frozen=True, slots=True)
class VerifiedWorkload:
    """A workload whose default and choices were measured again; nothing where it has no choice."""

    workload: ExportedWorkload
    default: Evaluation | None  # None where it did not run when it was exported
    checked: Sequence[CheckedConfiguration]


def verify_workload(
    console: Console, bench: Bench, document: Export, workload: ExportedWorkload
) -> VerifiedWorkload:
    """Measure a workload's default and choices again, and print and return what came of it."""
    choices = choices_of(document, workload)
    if not choices:
        return VerifiedWorkload(workload, None, ())
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
    return VerifiedWorkload(workload, again, checked)


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
