"""The `verify` command: does an exported file still tell the truth, here and now?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

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
from search.views.verify_view import print_checked, print_claims
from studies.export.document import Export, ExportedWorkload
from studies.export.verification import (
    CheckedConfiguration,
    check,
    choices_of,
    configurations_of,
    narrower,
    unclear_of,
)
from studies.results.labels import workload_label
from studies.study.finalists import FinalistTimings, judge_finalists
from variants.configuration import Configuration
from variants.device import DeviceKind
from variants.plugins import missing_plugins

console = make_console()
UNCLEAR = 3  # exit status: no claim is broken, and of one nothing can be said
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
    has grown, or a winner is inaccurate or fails. Status 3 when none is broken and one is
    unclear: the times vary so much that nothing can be said, after another try, too. With
    --in-model, status 1 when the winner is slower than the default in the model; a promise that
    is off by more than a tenth is said, no more.
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
            found = _verified(bench, document, file, anyway=anyway, as_json=as_json)
    finally:
        bench.close()
    if as_json:
        print_json(found)
    if found.broken:
        raise typer.Exit(1)
    if found.unclear:
        raise typer.Exit(UNCLEAR)


def _verified(
    bench: Bench, document: Export, file: Path, *, anyway: bool, as_json: bool
) -> VerifyDocument:
    """Measure all again, print workload after workload, and return what came of it."""
    here = bench.environment()
    differences = _admit(document.environment, here, file, anyway=anyway)
    for difference in differences:
        console.print(f"differs: {difference}", highlight=False, soft_wrap=True)
    again = [
        verify_workload(console, bench, document, workload) for workload in document.workloads
    ]
    claims = [claim for one in again for each in one.checked for claim in each.claims]
    with aloud(console, aloud=not as_json):
        print_claims(console, claims)
    broken, unclear = (
        sum(bool(getattr(claim, state)) for claim in claims) for state in ("broken", "unclear")
    )
    held = sum(
        claim.new is not None and not claim.broken and not claim.unclear for claim in claims
    )
    return VerifyDocument(
        command="verify",
        file=str(file),
        environment=here,
        differences=tuple(differences),
        claims=len(claims),
        broken=broken,
        unclear=unclear,
        unchecked=len(claims) - held - broken - unclear,
        defaults=tuple(checked_default(one.workload, one.default) for one in again if one.checked),
        choices=tuple(
            choice for one in again for choice in checked_choices(one.workload, one.checked)
        ),
    )


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
    """Measure a workload's default and choices again, and print and return what came of it.

    What is unclear is measured once more.
    """
    choices = choices_of(document, workload)
    if not choices:
        return VerifiedWorkload(workload, None, ())
    configurations = configurations_of(workload, choices)
    stored = [choice.measurements for choice in choices.values()]
    if workload.default.measurements is not None:
        stored.append(workload.default.measurements)
    full_ms = full_speed_of(each.latency for each in stored)
    limits, default = document.study.limits, workload.default.configuration

    def measure(of: Sequence[Configuration]) -> FinalistTimings:
        measured.update({each: at_full_speed(bench.evaluate(each), full_ms) for each in of})
        return judge_finalists(
            turns_at_full_speed(bench.compare(of), [measured[each] for each in of]),
            reference=default.variant.key,
            after_trial=-1,
        )

    measured: dict[Configuration, Evaluation] = {}
    turns = measure(configurations)
    checked = check(workload, choices, measured, turns, limits)
    if again := unclear_of(checked):
        label = workload_label(workload.workload, ())
        console.print(f"{label}: {len(again)} unclear, measured again", highlight=False)
        first = [default] if default in measured else []
        turns = narrower(turns, measure([*first, *(one for one in again if one != default)]))
        checked = check(workload, choices, measured, turns, limits)
    print_checked(console, workload, checked, measured.get(default))
    return VerifiedWorkload(workload, measured.get(default), checked)
