"""The commands that show what is stored or declared, and measure nothing."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from objectives.schema.limits import Limits
from objectives.trial.bench import DeviceBench
from search.documents.study_document import study_document
from search.documents.support_document import support_document
from search.options.choices import UsageError, gather_choices
from search.options.command_options import OptionForEachAxis, with_options
from search.options.output_options import JsonOption, QuietOption
from search.options.plugin_option import PluginOption
from search.options.shared_options import (
    DEFAULT_STORAGE,
    DeviceOption,
    ModelOption,
    Storage,
    StudyName,
)
from search.views.next_commands import next_commands
from search.views.screen import print_screen
from search.views.support_listing import (
    axes_markdown,
    check_support,
    print_checked,
    print_support,
)
from search.views.terminal import make_console, print_json, spoken
from search.views.verdict import print_changed, print_front, print_outcomes, print_verdict
from studies.dashboard.publisher import publish
from studies.dashboard.serving import address, serve
from studies.results.front import WorkloadResult
from studies.results.labels import workload_label
from studies.results.results import Results, as_table, read_results
from studies.space.defaults import EIGHT_BIT_MAX_ERROR
from studies.space.space import survey
from studies.storage.artifacts import artifact_store
from studies.study.study import load_study, open_storage
from variants.axes import Choice
from variants.device import DEVICE_PROFILES, Device

console = make_console()
_NAMED = 6  # workloads, in a refusal


def show(
    study: StudyName = None,
    storage: Storage = DEFAULT_STORAGE,
    every: Annotated[
        bool, typer.Option("--all", help="All tables: fronts, verdict and outcomes.")
    ] = False,
    workload: Annotated[
        str | None,
        typer.Option(
            metavar="WORDS",
            help="Front and verdict of the workloads with these words in their name: 'b4 alibi'.",
        ),
    ] = None,
    front: Annotated[bool, typer.Option("--front", help="The fronts alone.")] = False,
    as_json: JsonOption = False,
    plugin: PluginOption = None,
) -> None:
    """Print what a stored study found, on one screen; with options, in tables."""
    results = read_results(load_study(open_storage(storage, create=False), study))
    if as_json:
        print_json(study_document(results, storage))
        return
    environment, varying = results.environment, set(results.plan.space.searched)
    console.print(
        f"study {results.study_name}: {environment.device.name}, torch {environment.device.torch}"
    )
    if not (every or front or workload):
        size = survey(results.plan.space, environment.device).size
        print_screen(console, results, next_commands(results, storage, size=size))
        return
    chosen = _named(results, workload, varying)
    for result in chosen:
        print_front(console, result, varying)
    if not front:
        print_verdict(console, results, chosen)
    if every:
        print_outcomes(console, results)
        print_changed(console, results)


def _named(
    results: Results, words: str | None, varying: Collection[str]
) -> Sequence[WorkloadResult]:
    """Return the workloads whose name holds all words.

    Raises:
        UsageError: There is none.
    """
    labels = [workload_label(result.workload, varying) for result in results.workloads]
    chosen = [
        result
        for result, label in zip(results.workloads, labels, strict=True)
        if set((words or "").split()) <= set(label.split())
    ]
    if not chosen and words:
        known = ", ".join(labels[:_NAMED]) + (", …" if len(labels) > _NAMED else "")
        raise UsageError(f"--workload must be words of one of {known}; got {words}")
    return chosen


def dashboard(
    study: StudyName = None,
    storage: Storage = DEFAULT_STORAGE,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="PORT", help="Port to listen on.")
    ] = 8080,
    plugin: PluginOption = None,
) -> None:
    """Serve optuna-dashboard: the Pareto front, live while a run goes on."""
    opened = open_storage(storage, create=False)
    chosen = load_study(opened, study)
    publish(chosen)
    console.print(f"{address(host, port, chosen)}   (Ctrl-C ends)", soft_wrap=True)
    try:
        serve(opened, artifact_store(storage), host, port)
    except OSError as error:
        raise UsageError(
            f"--host and --port must be free to listen on, got {host}:{port}: {error.strerror}"
        ) from None
    except KeyboardInterrupt:
        return


def table(
    study: StudyName = None,
    storage: Storage = DEFAULT_STORAGE,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A .csv file, or a .parquet file, which needs pyarrow: pip install '.[parquet]'.",
        ),
    ] = None,
    quiet: QuietOption = False,
    plugin: PluginOption = None,
) -> None:
    """Write all trials as CSV (standard output if no file is given) or Parquet."""
    frame = as_table(read_results(load_study(open_storage(storage, create=False), study)))
    if output is None:
        frame.to_csv(sys.stdout, index=False)
        return
    if output.suffix not in (".csv", ".parquet"):
        raise UsageError(f"--output must end in .csv or .parquet, got {output}")
    try:
        if output.suffix == ".csv":
            frame.to_csv(output, index=False)
        else:
            frame.to_parquet(output, index=False)
    except ImportError:
        raise UsageError(
            "--output *.parquet needs pyarrow, which is not installed: pip install '.[parquet]' "
            "in a checkout, else pip install pyarrow"
        ) from None
    except OSError as error:
        raise UsageError(f"--output must be a file that can be written: {error}") from None
    with spoken(console, quiet=quiet):
        console.print(f"wrote {output} ({len(frame)} rows)")


@with_options
def support(
    *,
    device_profile: Annotated[
        str | None,
        typer.Option(help=f"Ask for one of {', '.join(DEVICE_PROFILES)} instead of this device."),
    ] = None,
    device: DeviceOption = "auto",
    axes: Annotated[Mapping[str, str | None], OptionForEachAxis(without=("new_tokens", "layers"))],
    model: ModelOption = None,
    plugin: PluginOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Try it on this device: is it as declared?")
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print all choices of all axes as Markdown.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print what a device can run, and why it cannot run the rest."""
    if markdown and as_json:
        raise UsageError("--markdown and --json must not both be given")
    if markdown:
        sys.stdout.write(axes_markdown())
        return
    given = gather_choices(axes, model=model)
    if device_profile is not None:
        if device_profile not in DEVICE_PROFILES:
            raise UsageError(
                f"--device-profile must be one of {', '.join(DEVICE_PROFILES)}; "
                f"got {device_profile}"
            )
        if check:
            raise UsageError("--check must be left out where --device-profile names no device")
        _print_support(DEVICE_PROFILES[device_profile].device, given, as_json=as_json)
        return
    # Short samples, and room for 8-bit numbers: whether it runs is the question.
    limits = Limits(sampling_s=0.01, max_error=2 * EIGHT_BIT_MAX_ERROR)
    bench = DeviceBench(limits, seed=0, device=None if device == "auto" else device)
    try:
        if not (check and as_json):  # there what was tried belongs into the document
            _print_support(bench.device(), given, as_json=as_json)
        if not check:
            return
        with spoken(console, as_json=as_json):
            tried = check_support(console, bench, given)
            print_checked(console, tried)
        if as_json:
            print_json(support_document(bench.device(), given, tried))
    finally:
        bench.close()
    if any(one.disagreement for one in tried):
        raise typer.Exit(1)


def _print_support(
    here: Device, given: Mapping[str, tuple[Choice, ...]], *, as_json: bool
) -> None:
    if as_json:
        print_json(support_document(here, given))
    else:
        print_support(console, here, given)
