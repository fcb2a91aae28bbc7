"""The command line: parse, wire, print.

Exit status: 0 done, 1 nothing could be measured, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from objectives.bench import DeviceBench
from objectives.isolation import WorkerError
from objectives.limits import Limits
from objectives.neighbours import other_gpu_processes
from search.choices import UsageError, choices_from_options, choices_from_toml
from search.run import Runner, stopping_reason
from search.support import print_support
from search.text import duration
from search.verdict import (
    print_front,
    print_outcomes,
    print_space,
    print_time,
    print_verdict,
)
from studies.dashboard import address, serve
from studies.defaults import DEFAULT_AXES
from studies.estimate import estimate_s
from studies.export import build_export, export_schema, write_atomically
from studies.opening import open_study, stored_plan
from studies.plots import save_plots
from studies.results import Results, as_table, read_results
from studies.sampler import SAMPLERS
from studies.session import Session
from studies.space import SpaceError, fill_defaults, survey
from studies.study import Plan, StudyError, load_study, open_storage
from variants.axes import AXES
from variants.detect import DeviceMissingError
from variants.device import DEVICE_PROFILES, Device

app = typer.Typer(
    help="Finds the attention configuration with the least memory and latency on this device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console()
# typer carries click under one name or another; what both share is reached through this class.
_ClickUsageError: type[Exception] = typer.BadParameter.__bases__[0]

DEFAULT_STORAGE = "sqlite:///goldilocks.db"


def _axis(name: str) -> Any:
    cuda, cpu = (DEFAULT_AXES[kind].get(name) for kind in ("cuda", "cpu"))
    default = ""
    if cuda is not None and cpu is not None:
        texts = [",".join(map(str, choices)) for choices in (cuda, cpu)]
        default = (
            f" [default: {' on CUDA, '.join(texts)} on CPU]"
            if texts[0] != texts[1]
            else (f" [default: {texts[0]}]")
        )
    help_text = f"{AXES[name].summary}; a choice or a list.{default}"
    panel = "Variant axes" if AXES[name].of_variant else "Workload axes"
    return typer.Option(
        "--" + name.replace("_", "-"), metavar="A,B", help=help_text, rich_help_panel=panel
    )


Phase = Annotated[str | None, _axis("phase")]
Batch = Annotated[str | None, _axis("batch")]
SeqLen = Annotated[str | None, _axis("seq_len")]
NewTokens = Annotated[str | None, _axis("new_tokens")]
QHeads = Annotated[str | None, _axis("q_heads")]
KvHeads = Annotated[str | None, _axis("kv_heads")]
HeadDim = Annotated[str | None, _axis("head_dim")]
HiddenSize = Annotated[str | None, _axis("hidden_size")]
Layers = Annotated[str | None, _axis("layers")]
ScoreMod = Annotated[str | None, _axis("score_mod")]
Backend = Annotated[str | None, _axis("backend")]
Precision = Annotated[str | None, _axis("precision")]
Cache = Annotated[str | None, _axis("cache")]
Execution = Annotated[str | None, _axis("execution")]
SpaceFile = Annotated[
    Path | None,
    typer.Option("--space", metavar="FILE", help="TOML file with a table [axes]; options win."),
]
DeviceOption = Annotated[
    Literal["auto", "cuda", "cpu"], typer.Option("--device", help="Where to measure.")
]
Storage = Annotated[
    str, typer.Option("--storage", metavar="URL", help="Any Optuna storage.", envvar=None)
]
StudyName = Annotated[
    str | None, typer.Option("--study", metavar="NAME", help="The newest one if not given.")
]


@app.command()
def run(
    trials: Annotated[int, typer.Option(min=1, help="Unique configurations, in all.")] = 200,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Stop after this long, told or not.")
    ] = None,
    phase: Phase = None,
    batch: Batch = None,
    seq_len: SeqLen = None,
    new_tokens: NewTokens = None,
    q_heads: QHeads = None,
    kv_heads: KvHeads = None,
    head_dim: HeadDim = None,
    hidden_size: HiddenSize = None,
    layers: Layers = None,
    score_mod: ScoreMod = None,
    backend: Backend = None,
    precision: Precision = None,
    cache: Cache = None,
    execution: Execution = None,
    space: SpaceFile = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            min=1e-12,
            help=f"Relative error above which a result is INACCURATE. "
            f"[default: {Limits().max_error:g}]",
        ),
    ] = None,
    max_memory_gib: Annotated[
        float | None, typer.Option(min=1e-3, help="Peak memory that must not be exceeded.")
    ] = None,
    max_stall_ms: Annotated[
        float | None,
        typer.Option(
            min=1e-3,
            help=f"Cost of each new length above which a result STALLS. "
            f"[default: {Limits().max_stall_ms:g}]",
        ),
    ] = None,
    deadline_s: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            help=f"Seconds for one trial, compilation included. "
            f"[default: {Limits().deadline_s:g}]",
        ),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(SAMPLERS)}. [default: tpe]")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of inputs and proposals. [default: 0]")
    ] = None,
    device: DeviceOption = "auto",
    storage: Storage = DEFAULT_STORAGE,
    study: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Resume the study of that name, or give a new one it."),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the space and an estimate; stop.")] = False,
) -> None:
    """Search: measure configurations, then print each workload's winners against its default."""
    given = choices_from_toml(space) if space is not None else {}
    given |= choices_from_options(
        {
            "phase": phase,
            "batch": batch,
            "seq_len": seq_len,
            "new_tokens": new_tokens,
            "q_heads": q_heads,
            "kv_heads": kv_heads,
            "head_dim": head_dim,
            "hidden_size": hidden_size,
            "layers": layers,
            "score_mod": score_mod,
            "backend": backend,
            "precision": precision,
            "cache": cache,
            "execution": execution,
        }
    )
    if sampler is not None and sampler not in SAMPLERS:
        raise UsageError(f"--sampler must be one of {', '.join(SAMPLERS)}; got {sampler}")
    opened = open_storage(storage)
    # What is not said is as it was in the study that is resumed, or else the default.
    stored = stored_plan(opened, study)
    asked = {
        "max_error": max_error,
        "max_memory_gib": max_memory_gib,
        "max_stall_ms": max_stall_ms,
        "deadline_s": deadline_s,
    }
    limits = (Limits() if stored is None else stored.limits).model_copy(
        update={name: value for name, value in asked.items() if value is not None}
    )
    if sampler is None:
        sampler = "tpe" if stored is None else stored.sampler
    if seed is None:
        seed = 0 if stored is None else stored.seed
    bench = DeviceBench(limits, seed=seed, device=None if device == "auto" else device)
    try:
        here = bench.device()
        _warn_of_neighbours(here)
        base = DEFAULT_AXES[here.kind] if stored is None else stored.space.axes
        wanted = fill_defaults(given, base)
        found = survey(wanted, here)
        print_space(console, found)
        expected = duration(estimate_s(found, here.kind, trials))
        count = min(trials, found.size)
        console.print(f"on {here.name}, torch {here.torch}; about {expected} for {count} trials")
        if not given and stored is None:
            console.print(
                "These are defaults. Your own workload: --batch 8 --seq-len 4096 --q-heads 32 "
                "--kv-heads 8 --head-dim 128, or --space FILE.toml"
            )
        if dry_run:
            return
        plan = Plan(space=wanted, limits=limits, sampler=sampler, seed=seed)
        session = Session(open_study(opened, study, plan, bench.environment()), plan, found, bench)
        _search(session, bench.worker.start_seconds, trials, minutes, storage)
    finally:
        bench.close()


def _warn_of_neighbours(here: Device) -> None:
    others = other_gpu_processes() if here.kind == "cuda" else []
    if others:
        console.print(
            f"warning: the GPU is also used by {', '.join(others)}: latencies will be noisy, and "
            "memory that they hold is missing here",
            style="yellow",
        )


def _search(
    session: Session, starts: list[float], trials: int, minutes: float | None, storage: str
) -> None:
    name = session.study.study_name
    if session.abandoned:
        console.print(f"{session.abandoned} trials of a run that died are abandoned")
    console.print(f"study {name} in {storage}")
    runner = Runner(console, session)
    try:
        runner.run(trials, minutes)
    except KeyboardInterrupt:
        runner.interrupt.asked = True
    results = read_results(session.study)
    save_plots(session.study, results)
    print_verdict(console, results)
    print_outcomes(console, results)
    session.seconds["worker start"] = sum(starts)
    wall_s = runner.wall_s + starts[0]  # the first one was before the run
    print_time(console, session.seconds, wall_s, runner.trials)
    console.print(stopping_reason(runner, session, trials))
    _print_next(results, storage, resume=runner.interrupt.asked or runner.out_of_time)
    if runner.interrupt.asked:
        raise typer.Exit(130)
    if not any(result.winners for result in results.workloads):
        raise typer.Exit(1)


def _print_next(results: Results, storage: str, *, resume: bool) -> None:
    where = "" if storage == DEFAULT_STORAGE else f" --storage {storage}"
    study = f" --study {results.study_name}"
    console.print("next:")
    lines = [
        f"python -m search dashboard{study}{where}",
        f"python -m search export{study}{where} --output best.json",
    ]
    told = len(results.told)
    more = f"python -m search run{study}{where} --trials {told + 200 if not resume else 200}"
    lines.append(more + ("   (resumes)" if resume else "   (goes on)"))
    for line in lines:
        console.print(f"  {line}", highlight=False, soft_wrap=True)


@app.command()
def show(study: StudyName = None, storage: Storage = DEFAULT_STORAGE) -> None:
    """Print the fronts and the verdict of a stored study."""
    results = read_results(load_study(open_storage(storage), study))
    environment = results.environment
    console.print(
        f"study {results.study_name}: {environment.device.name}, torch {environment.device.torch}"
    )
    varying = set(results.plan.space.searched)
    for result in results.workloads:
        print_front(console, result, varying)
    print_verdict(console, results)
    print_outcomes(console, results)


@app.command()
def export(
    study: StudyName = None,
    storage: Storage = DEFAULT_STORAGE,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Standard output if not given.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema.")] = False,
) -> None:
    """Write the winners as JSON, which `variants.load` turns into attention."""
    if schema:
        text = export_schema()
    else:
        results = read_results(load_study(open_storage(storage), study))
        text = build_export(results).model_dump_json(indent=2) + "\n"
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


@app.command()
def dashboard(
    study: StudyName = None,
    storage: Storage = DEFAULT_STORAGE,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
) -> None:
    """Serve optuna-dashboard: the Pareto front, live while a run goes on."""
    opened = open_storage(storage)
    chosen = load_study(opened, study)
    console.print(f"{address(host, port, chosen._study_id)}   (Ctrl-C ends)", soft_wrap=True)
    try:
        serve(opened, host, port)
    except OSError as error:
        raise UsageError(
            f"--host and --port must be free to listen on, got {host}:{port}: {error.strerror}"
        ) from None
    except KeyboardInterrupt:
        return


@app.command()
def table(
    study: StudyName = None,
    storage: Storage = DEFAULT_STORAGE,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A .csv or .parquet file.")
    ] = None,
) -> None:
    """Write all trials as CSV (standard output if no file is given) or Parquet."""
    frame = as_table(read_results(load_study(open_storage(storage), study)))
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
        raise UsageError("--output *.parquet needs pyarrow, which is not installed") from None
    except OSError as error:
        raise UsageError(f"--output must be a file that can be written: {error}") from None
    console.print(f"wrote {output} ({len(frame)} rows)")


@app.command()
def support(
    device_profile: Annotated[
        str | None,
        typer.Option(help=f"Ask for one of {', '.join(DEVICE_PROFILES)} instead of this device."),
    ] = None,
    device: DeviceOption = "auto",
    phase: Phase = None,
    q_heads: QHeads = None,
    kv_heads: KvHeads = None,
    head_dim: HeadDim = None,
    score_mod: ScoreMod = None,
) -> None:
    """Print what a device can run, and why it cannot run the rest."""
    given = choices_from_options(
        {
            "phase": phase,
            "q_heads": q_heads,
            "kv_heads": kv_heads,
            "head_dim": head_dim,
            "score_mod": score_mod,
        }
    )
    if device_profile is not None:
        if device_profile not in DEVICE_PROFILES:
            raise UsageError(
                f"--device-profile must be one of {', '.join(DEVICE_PROFILES)}; "
                f"got {device_profile}"
            )
        here = DEVICE_PROFILES[device_profile].device
    else:
        bench = DeviceBench(Limits(), seed=0, device=None if device == "auto" else device)
        try:
            here = bench.device()
        finally:
            bench.close()
    print_support(console, here, given)


def main() -> int:
    """Run the command line. Returns the exit status."""
    try:
        status = app(standalone_mode=False)  # what `typer.Exit` carries
    except _ClickUsageError as error:
        return _wrong(error)
    except (UsageError, SpaceError, StudyError, DeviceMissingError) as error:
        return _wrong(error)
    except WorkerError as error:
        print(f"error: the measuring process cannot be used: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return 130
    return status if isinstance(status, int) else 0


def _wrong(error: Exception) -> int:
    formatted = getattr(error, "format_message", error.__str__)()
    print(f"error: {' '.join(formatted.split())}", file=sys.stderr)
    return 2
