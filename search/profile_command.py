"""The `profile` command: where one configuration's time goes, and where its memory peaks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from objectives.roofline.bound import Peaks, under_roofline
from objectives.schema.evaluation import Evaluation
from objectives.schema.limits import Limits
from objectives.schema.profile import Profile
from objectives.timing.host_scaling import at_full_speed
from objectives.trial.bench import DeviceBench
from search.options.choices import UsageError, gather_choices
from search.options.command_options import AxisTexts, option_of, with_options
from search.options.plugin_option import PluginOption
from search.options.shared_options import (
    DEFAULT_STORAGE,
    DeviceOption,
    ModelOption,
    Storage,
    StudyName,
)
from search.views.terminal import make_console
from studies.results.labels import (
    mebibytes,
    milliseconds,
    trial_line,
    variant_label,
    workload_label,
)
from studies.space.defaults import DEFAULT_AXES
from studies.space.space import fill_defaults
from studies.storage.artifacts import artifact_store, attach_file
from studies.study.attributes import StudyError
from studies.study.device_peaks import peaks_of_study
from studies.study.plan import environment_of, plan_of
from studies.study.study import load_study, open_storage
from studies.study.trials import finished_trials
from variants.axes import AXES, Choice
from variants.configuration import Configuration, default_variant
from variants.device import Device
from variants.support import unsupported_reasons

console = make_console()
ROWS = 12  # shown of each table


@with_options
def profile(
    *,
    trial: Annotated[
        int | None, typer.Option(min=0, help="Profile this trial of a study; no axes then.")
    ] = None,
    study: StudyName = None,
    storage: Storage = DEFAULT_STORAGE,
    plugin: PluginOption = None,
    output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where trace and snapshot are written.")
    ] = Path("profile"),
    axes: AxisTexts,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Profile one configuration: operators, kernels, memory, and a trace to look into.

    Axes that are not named are those of PyTorch's default.
    """
    given = gather_choices(axes, model=model)
    if trial is not None:
        if given:
            raise UsageError(f"{option_of(next(iter(given)))} must be left out with --trial")
        profile_trial(trial, study, storage, output, device)
        return
    if study is not None:
        raise UsageError(f"--study must come with --trial, got --study {study} alone")
    bench = DeviceBench(Limits(), seed=0, device=None if device == "auto" else device)
    try:
        here = bench.device()
        configuration = one_configuration(given, here)
        profile_one(bench, here, configuration, bench.peaks(), output, prefix="")
    finally:
        bench.close()


def profile_trial(number: int, name: str | None, storage: str, output: Path, device: str) -> None:
    """Profile a stored trial and attach the files to its study.

    Raises:
        StudyError: There is no such finished trial.
        UsageError: It was measured on another kind of device.
    """
    study = load_study(open_storage(storage, create=False), name)
    configurations = {
        each.number: each.evaluation.configuration for each in finished_trials(study)
    }
    if number not in configurations:
        raise StudyError(
            f"--trial must be a finished trial of {study.study_name} (0 to "
            f"{max(configurations, default=0)}), got {number}"
        )
    plan = plan_of(study)
    kind = environment_of(study).device.kind
    if device not in ("auto", kind):
        raise UsageError(
            f"--device must be {kind} here, on which {study.study_name} was measured, got {device}"
        )
    bench = DeviceBench(plan.limits, seed=plan.seed, device=kind)
    try:
        for difference in environment_of(study).differences(bench.environment()):
            console.print(f"differs: {difference}", highlight=False, soft_wrap=True)
        files = profile_one(
            bench,
            bench.device(),
            configurations[number],
            peaks_of_study(study),
            output,
            prefix=f"trial-{number}.",
        )
    finally:
        bench.close()
    try:
        store = artifact_store(storage)
        for file in files:
            mimetype = "application/json" if file.suffix == ".json" else "application/octet-stream"
            attach_file(study, store, file.name, file.read_bytes(), mimetype)
    except OSError as error:
        raise StudyError(f"the files could not be attached to the study: {error}") from None
    console.print(f"attached to study {study.study_name}: see `python -m search dashboard`")


def one_configuration(given: Mapping[str, tuple[Choice, ...]], here: Device) -> Configuration:
    """Return the configuration of one choice for each axis; PyTorch's default for the rest.

    Raises:
        UsageError: An axis has several choices, or it cannot run here.
        SpaceError: They make no workload.
    """
    for axis, choices in given.items():
        if len(choices) != 1:
            listed = ",".join(map(str, choices))
            raise UsageError(f"{option_of(axis)} must be one choice here, got {listed}")
    base = {axis: choices[:1] for axis, choices in DEFAULT_AXES[here.kind].items()}
    (workload,) = fill_defaults(given, base).workloads()
    variant = default_variant(workload, here).model_dump(exclude_none=True)
    variant |= {axis: str(choice) for axis, (choice,) in given.items() if AXES[axis].of_variant}
    configuration = Configuration.of(workload, variant)
    reasons = unsupported_reasons(configuration, here)
    if reasons:
        raise UsageError(f"{here.name} cannot run {configuration.key}: {'; '.join(reasons)}")
    return configuration


def profile_one(
    bench: DeviceBench,
    here: Device,
    configuration: Configuration,
    peaks: Peaks | None,
    folder: Path,
    *,
    prefix: str,
) -> list[Path]:
    """Measure and profile a configuration, print, and return the files that were written."""
    full_ms = None if peaks is None else peaks.yardstick_ms
    measured = at_full_speed(bench.evaluate(configuration), full_ms)
    evaluation = under_roofline(measured, here, peaks)
    console.print(trial_line(evaluation, ()), highlight=False, soft_wrap=True, markup=False)
    if evaluation.measurements is None:
        raise typer.Exit(1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--output must be a folder that can be written, got {folder}: {error.strerror}"
        ) from None
    found = bench.profile(configuration, folder, prefix)
    print_profile(evaluation, found, peaks)
    files = [folder / name for name in (found.trace, found.snapshot) if name is not None]
    console.print(f"trace: {files[0]}   (chrome://tracing, ui.perfetto.dev)", soft_wrap=True)
    if found.snapshot is None:
        console.print("no memory snapshot: only CUDA's allocator keeps a history")
    else:
        console.print(f"memory snapshot: {files[1]}   (pytorch.org/memory_viz)", soft_wrap=True)
    return files


def print_profile(evaluation: Evaluation, found: Profile, peaks: Peaks | None) -> None:
    """Print the summary and the tables."""
    for line in profile_summary(evaluation, found, peaks):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    steps = "" if found.steps == 1 else f" of {found.steps} steps"
    _print(
        f"operators{steps}, without what they call; under the profiler, which slows the host",
        ("operator", "calls", "host ms", "device ms"),
        [
            (row.name, str(row.calls), milliseconds(row.host_ms), milliseconds(row.device_ms))
            for row in found.operators
        ],
    )
    if found.kernels:
        _print(
            f"kernels{steps}",
            ("kernel", "calls", "device ms", "share"),
            [
                (row.name, str(row.calls), milliseconds(row.device_ms), f"{row.share:.0%}")
                for row in found.kernels
            ],
        )
    _print(
        "memory by stage, of one layer",
        ("stage", "peak MiB", "left MiB"),
        [(row.stage, mebibytes(row.peak_mib), mebibytes(row.after_mib)) for row in found.memory],
    )
    _print(
        "what exists when memory peaks, in the steps",
        ("operator", "allocations", "allocated MiB", "at the peak, MiB"),
        [
            (
                row.operator,
                str(row.calls),
                mebibytes(row.allocated_mib),
                mebibytes(row.at_peak_mib),
            )
            for row in found.allocations
        ],
    )


def profile_summary(evaluation: Evaluation, found: Profile, peaks: Peaks | None) -> list[str]:
    """Return what binds the configuration, in a few lines."""
    measured = evaluation.measurements
    assert measured is not None
    of = evaluation.configuration
    lines = [
        f"{workload_label(of.workload, ())}  {variant_label(of.variant, measured.backend_ran)}"
    ]
    latency = measured.latency
    if latency.gpu is not None:
        idle = 1 - latency.gpu.value / latency.latency_ms
        lines.append(
            f"bound by the {'GPU' if latency.bound == 'gpu' else 'host'}: "
            f"GPU {milliseconds(latency.gpu.value)} ms, host {milliseconds(latency.host.value)} "
            f"ms a step; the GPU idles {idle:.0%} of it"
        )
        each = found.launches / found.steps
        busy = found.device_busy_ms / found.steps
        cost = ""
        if peaks is not None and peaks.launch_us is not None and of.variant.execution == "eager":
            cost = f"; launching so many operations takes {each * peaks.launch_us / 1e3:.3f} ms"
        lines.append(
            f"{each:.0f} kernels, copies and fills a step, busy {milliseconds(busy)} ms (warm L2, "
            f"one layer){cost}"
        )
    roofline = measured.roofline
    if roofline is not None:
        lines.append(
            f"roofline: {roofline.latency_share:.0%} (bound by {roofline.limit}, "
            f"{milliseconds(roofline.latency_ms)} ms at {roofline.rates} rates); memory: at least "
            f"{mebibytes(roofline.memory_mib)} of {mebibytes(measured.memory.peak_mib)} MiB"
        )
    return lines


def _print(title: str, headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        left = heading == headings[0]
        table.add_column(heading, justify="left" if left else "right", overflow="ellipsis")
    for row in rows[:ROWS]:
        table.add_row(*row)
    console.print(table)
