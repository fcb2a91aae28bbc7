"""What `run` is told: a field for each of its options, and one for those of the axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from objectives.schema.limits import MOST_S, Limits
from search.options.choices import UsageError
from search.options.command_options import AxisTexts
from search.options.help_panels import BUDGET, DEVICES, LIMITS, OUTPUT, SEARCHING, STORED
from search.options.output_options import JsonOption, QuietOption
from search.options.plugin_option import PluginOption
from search.options.shared_options import (
    DEFAULT_STORAGE,
    DeviceOption,
    Preset,
    ServedModel,
    SpaceFile,
    Storage,
)
from search.runner import LITTLE
from studies.samplers.samplers import OWN, SAMPLERS
from studies.space.defaults import EIGHT_BIT_MAX_ERROR
from studies.study.plan import MOST_SEED, Plan
from variants.device import DeviceKind

TRIALS = 200


def sampler_names() -> list[str]:
    """Return what a shell offers for `--sampler`."""
    return list(SAMPLERS)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The options of `run`, in the order in which its help lists them."""

    trials: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help=f"Unique configurations, in all. [default: {TRIALS}]",
            rich_help_panel=BUDGET,
        ),
    ] = None
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            metavar="MINUTES",
            help="Stop after this many minutes.",
            rich_help_panel=BUDGET,
        ),
    ] = None
    patience: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            rich_help_panel=BUDGET,
            help=f"Stop when for so many trials in a row the surrogate expected less than "
            f"{LITTLE:.1%} of the hypervolume from another one.",
        ),
    ] = None
    probe: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Add so many trials that fill the space, for `sensitivity`; then stop.",
            rich_help_panel=BUDGET,
        ),
    ] = None
    axes: AxisTexts
    preset: Preset = None
    model: ServedModel = None
    space: SpaceFile = None
    max_error: Annotated[
        float | None,
        typer.Option(
            min=1e-12,
            metavar="ERROR",
            rich_help_panel=LIMITS,
            help=f"Relative error above which a result is INACCURATE. "
            f"[default: {Limits().max_error:g}, or {EIGHT_BIT_MAX_ERROR:g} where 8-bit numbers "
            f"are searched]",
        ),
    ] = None
    max_memory_gib: Annotated[
        float | None,
        typer.Option(
            min=1e-3,
            metavar="GIB",
            help="Peak memory that must not be exceeded.",
            rich_help_panel=LIMITS,
        ),
    ] = None
    max_stall_ms: Annotated[
        float | None,
        typer.Option(
            min=1e-3,
            metavar="MS",
            rich_help_panel=LIMITS,
            help=f"Cost of each new length above which a result STALLS. "
            f"[default: {Limits().max_stall_ms:g}]",
        ),
    ] = None
    deadline_s: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            max=MOST_S,
            metavar="SECONDS",
            rich_help_panel=LIMITS,
            help=f"Seconds for one trial, compilation included. "
            f"[default: {Limits().deadline_s:g}]",
        ),
    ] = None
    sampler: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"One of {', '.join(SAMPLERS)}. [default: {OWN}]",
            rich_help_panel=SEARCHING,
            autocompletion=sampler_names,
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MOST_SEED,
            metavar="N",
            help="Of inputs and proposals. [default: 0]",
            rich_help_panel=SEARCHING,
        ),
    ] = None
    workers: Annotated[
        str,
        typer.Option(
            metavar="N|all",
            rich_help_panel=DEVICES,
            help="Measure on so many GPUs at once, or on all; on a CPU, on so many sets of cores.",
        ),
    ] = "1"
    compile_ahead: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            rich_help_panel=DEVICES,
            help="Compile what is likely to be tried next in so many more processes for each "
            "device, where cores and memory allow; they are stopped while anything is timed. "
            "Times of first steps are then those of compilers that remember. [default: 0]",
            show_default=False,
        ),
    ] = 0
    device: DeviceOption = "auto"
    storage: Storage = DEFAULT_STORAGE
    study: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Resume the study of that name, or give a new one it.",
            rich_help_panel=STORED,
        ),
    ] = None
    finalists: Annotated[
        bool,
        typer.Option(
            help="Time the winners and the default again, in turns, at the end.",
            rich_help_panel=SEARCHING,
        ),
    ] = True
    plugin: PluginOption = None
    new_environment: Annotated[
        bool,
        typer.Option(
            "--new-environment",
            rich_help_panel=STORED,
            help="Resume although the environment differs; trials from now on are marked.",
        ),
    ] = False
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over",
            rich_help_panel=STORED,
            help="Abandon what another host, gone for good, was measuring in this SQLite file.",
        ),
    ] = False
    show_all: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Print all tables at the end, not one screen alone.",
            rich_help_panel=OUTPUT,
        ),
    ] = False
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the space and an estimate; stop.", rich_help_panel=OUTPUT
        ),
    ] = False
    as_json: JsonOption = False
    quiet: QuietOption = False

    @property
    def kind(self) -> DeviceKind | None:
        """On which kind of device to measure; None for a GPU where there is one."""
        return None if self.device == "auto" else self.device

    def check(self) -> None:
        """Look at what needs no study.

        Raises:
            UsageError: The sampler does not exist, or two options contradict each other.
        """
        if self.sampler is not None and self.sampler not in SAMPLERS:
            raise UsageError(f"--sampler must be one of {', '.join(SAMPLERS)}; got {self.sampler}")
        if self.probe is not None and self.trials is not None:
            raise UsageError("--probe N says how many trials: leave out --trials")

    def resolved(self, stored: Plan | None, usual_error: float) -> tuple[Limits, str, int]:
        """Return limits, sampler and seed: as given, as in the resumed study, or the default.

        Args:
            stored: The plan of the study that is resumed, if any.
            usual_error: The largest relative error of a new study that names none.

        Raises:
            UsageError: The sampler expects no gains, for which `--patience` would wait.
        """
        asked = {
            "max_error": self.max_error,
            "max_memory_gib": self.max_memory_gib,
            "max_stall_ms": self.max_stall_ms,
            "deadline_s": self.deadline_s,
        }
        base = Limits(max_error=usual_error) if stored is None else stored.limits
        limits = base.model_copy(
            update={n: value for n, value in asked.items() if value is not None}
        )
        sampler, seed = self.sampler, self.seed
        if sampler is None:
            sampler = OWN if stored is None else stored.sampler
        if seed is None:
            seed = 0 if stored is None else stored.seed
        if self.patience is not None and sampler != OWN:
            raise UsageError(
                f"--patience needs --sampler {OWN}, which expects gains; got {sampler}"
            )
        return limits, sampler, seed
