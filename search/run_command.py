"""The `run` command: open a study, drive its search, print the verdict."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from objectives.precompile.precompile_pool import precompile_pools, why_fewer_processes
from objectives.precompile.queue import CompileQueue
from objectives.process.placement import (
    Placement,
    PlacementError,
    foreign_gpu_processes,
    placements,
    visible_gpus,
)
from objectives.schema.limits import MOST_S, Limits
from objectives.trial.bench import DeviceBench, start_together
from search.choices import UsageError, gather_choices
from search.options import (
    DEFAULT_STORAGE,
    Backend,
    Batch,
    Cache,
    DeviceOption,
    Execution,
    Gqa,
    HeadDim,
    HiddenSize,
    KvDtype,
    KvHeads,
    Layers,
    ModelOption,
    NewTokens,
    Phase,
    Precision,
    Preset,
    QHeads,
    Quantization,
    ScoreMod,
    SeqLen,
    SpaceFile,
    Storage,
    storage_words,
)
from search.plugin_option import PluginOption
from search.runner import LITTLE, Limit, Runner, stopping_reason
from search.views.finals import retime_finalists
from search.views.terminal import make_console
from search.views.verdict import (
    print_coverage,
    print_outcomes,
    print_space,
    print_time,
    print_verdict,
)
from studies.dashboard.publisher import publish
from studies.results.labels import duration
from studies.results.results import Results, read_results
from studies.samplers.samplers import OWN, SAMPLERS
from studies.session.estimate import estimate_s
from studies.session.preload import preload_in_background
from studies.session.session import Session
from studies.session.worker_pool import Worker
from studies.space.defaults import DEFAULT_AXES, EIGHT_BIT_MAX_ERROR, default_max_error
from studies.space.space import Survey, fill_defaults, survey
from studies.storage.url import shown
from studies.study.opening import open_study, stored_plan
from studies.study.plan import MOST_SEED, Plan
from studies.study.study import open_storage
from variants.device import Device, DeviceKind
from variants.plugins import loaded_plugins

TRIALS = 200

console = make_console()


def run(
    trials: Annotated[
        int | None, typer.Option(min=1, help=f"Unique configurations, in all. [default: {TRIALS}]")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Stop after this many minutes.")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Stop when for so many trials in a row the surrogate expected less than "
            f"{LITTLE:.1%} of the hypervolume from another one.",
        ),
    ] = None,
    probe: Annotated[
        int | None,
        typer.Option(
            min=1, help="Add so many trials that fill the space, for `sensitivity`; then stop."
        ),
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
    quantization: Quantization = None,
    cache: Cache = None,
    kv_dtype: KvDtype = None,
    gqa: Gqa = None,
    execution: Execution = None,
    preset: Preset = None,
    model: ModelOption = None,
    space: SpaceFile = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            min=1e-12,
            help=f"Relative error above which a result is INACCURATE. "
            f"[default: {Limits().max_error:g}, or {EIGHT_BIT_MAX_ERROR:g} where 8-bit numbers "
            f"are searched]",
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
            max=MOST_S,
            help=f"Seconds for one trial, compilation included. "
            f"[default: {Limits().deadline_s:g}]",
        ),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(SAMPLERS)}. [default: {OWN}]")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=MOST_SEED, help="Of inputs and proposals. [default: 0]"),
    ] = None,
    workers: Annotated[
        str,
        typer.Option(
            metavar="N|all",
            help="Measure on so many GPUs at once, or on all; on a CPU, on so many sets of cores.",
        ),
    ] = "1",
    compile_ahead: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Compile what is likely to be tried next in so many more processes for each "
            "device, where cores and memory allow; they are stopped while anything is timed. "
            "Times of first steps are then those of compilers that remember. [default: 0]",
            show_default=False,
        ),
    ] = 0,
    device: DeviceOption = "auto",
    storage: Storage = DEFAULT_STORAGE,
    study: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Resume the study of that name, or give a new one it."),
    ] = None,
    finalists: Annotated[
        bool, typer.Option(help="Time the winners and the default again, in turns, at the end.")
    ] = True,
    plugin: PluginOption = None,
    new_environment: Annotated[
        bool,
        typer.Option(
            "--new-environment",
            help="Resume although the environment differs; trials from now on are marked.",
        ),
    ] = False,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over",
            help="Abandon what another host, gone for good, was measuring in this SQLite file.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Print the space and an estimate; stop.")] = False,
) -> None:
    """Search: measure configurations, then print each workload's winners against its default."""
    given = gather_choices(
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
            "quantization": quantization,
            "cache": cache,
            "kv_dtype": kv_dtype,
            "gqa": gqa,
            "execution": execution,
        },
        preset=preset,
        model=model,
        space=space,
    )
    if sampler is not None and sampler not in SAMPLERS:
        raise UsageError(f"--sampler must be one of {', '.join(SAMPLERS)}; got {sampler}")
    if probe is not None and trials is not None:
        raise UsageError("--probe N says how many trials: leave out --trials")
    # A dry run of a new study leaves no database behind.
    opened = None if dry_run and study is None else open_storage(storage)
    stored = None if opened is None else stored_plan(opened, study)
    if max_error is None and stored is None:
        max_error = default_max_error(given)
    asked = {
        "max_error": max_error,
        "max_memory_gib": max_memory_gib,
        "max_stall_ms": max_stall_ms,
        "deadline_s": deadline_s,
    }
    limits, sampler, seed = _settings(stored, asked, sampler, seed)
    if patience is not None and sampler != OWN:
        raise UsageError(f"--patience needs --sampler {OWN}, which expects gains; got {sampler}")
    kind = None if device == "auto" else device
    tracks = _placements(workers, kind)
    queue = CompileQueue()
    pools = precompile_pools(
        tracks, compile_ahead, queue, seed=seed, device=kind, deadline_s=limits.deadline_s
    )
    benches = [
        DeviceBench(limits, seed=seed, device=kind, placement=placement, precompile=pool)
        for placement, pool in zip(tracks, pools, strict=True)
    ]
    begin = time.monotonic()
    try:
        if not dry_run:
            preload_in_background()
        _warn_of_cores(compile_ahead, tracks)
        here = start_together(benches[:1] if dry_run or opened is None else benches)
        _warn_of_neighbours(here, len(tracks))
        base = DEFAULT_AXES[here.kind] if stored is None else stored.space.axes
        found = survey(fill_defaults(given, base), here)
        _introduce(
            found, here, probe or trials or TRIALS, defaults_alone=not given and stored is None
        )
        if dry_run or opened is None:
            return
        plan = Plan(
            space=found.space,
            limits=limits,
            sampler=sampler,
            seed=seed,
            plugins=tuple(plugin.plugin for plugin in loaded_plugins()),
        )
        begun = open_study(
            opened, study, plan, benches[0].environment(), new_environment=new_environment
        )
        name = tracks[0].name if len(tracks) > 1 else here.kind
        session = Session(
            begun, plan, found, benches[0], name, joined=bool(stored), take_over=take_over
        )
        session.on_likely = queue.wish if any(pools) else None
        more = zip(benches[1:], tracks[1:], strict=True)
        session.workers += [Worker(bench, placement.name) for bench, placement in more]
        if probe is not None:
            trials = session.tried() + session.add_probes(probe)
        limit = Limit(trials or TRIALS, minutes, patience)
        runner = Runner(console, session, keep_all_workers=new_environment)
        starts = [bench.process.start_seconds for bench in benches]
        _search(runner, begin, starts, limit, storage, queue, finalists=finalists)
    finally:
        for bench in benches:
            bench.close()


def _placements(workers: str, kind: DeviceKind | None) -> list[Placement]:
    """Return where to measure at once."""
    if workers != "all" and not (workers.isascii() and workers.isdigit() and int(workers)):
        raise UsageError(f"--workers must be a positive number or all, got {workers}")
    try:
        # Whether there is a GPU is NVML's to say: CUDA is for the measuring processes alone.
        found = kind or ("cuda" if visible_gpus() else "cpu")
        return placements(found, None if workers == "all" else int(workers))
    except PlacementError as error:
        raise UsageError(f"--workers must be {error}") from None


def _settings(
    stored: Plan | None, asked: Mapping[str, float | None], sampler: str | None, seed: int | None
) -> tuple[Limits, str, int]:
    """Return limits, sampler and seed: as asked, as in the resumed study, or the default."""
    limits = (Limits() if stored is None else stored.limits).model_copy(
        update={name: value for name, value in asked.items() if value is not None}
    )
    if sampler is None:
        sampler = OWN if stored is None else stored.sampler
    if seed is None:
        seed = 0 if stored is None else stored.seed
    return limits, sampler, seed


def _introduce(found: Survey, here: Device, trials: int, *, defaults_alone: bool) -> None:
    print_space(console, found)
    expected = duration(estimate_s(found, here.kind, trials))
    count = min(trials, found.size)
    console.print(f"on {here.name}, torch {here.torch}; about {expected} for {count} trials")
    if defaults_alone:
        console.print(
            "These are defaults. Your own workload: --batch 8 --seq-len 4096 --q-heads 32 "
            "--kv-heads 8 --head-dim 128, or --space FILE.toml"
        )


def _warn_of_neighbours(here: Device, count: int) -> None:
    others = foreign_gpu_processes(visible_gpus()[:count]) if here.kind == "cuda" else []
    if others:
        console.print(
            f"warning: the GPU is also used by {', '.join(others)}: latencies will be noisy, and "
            "memory that they hold is missing here",
            style="yellow",
        )


def _warn_of_cores(pools: int, tracks: Sequence[Placement]) -> None:
    if fewer := why_fewer_processes(pools, tracks):
        console.print(fewer, style="yellow")


def _search(
    runner: Runner,
    begin: float,
    starts: Sequence[list[float]],
    limit: Limit,
    storage: str,
    queue: CompileQueue,
    *,
    finalists: bool,
) -> None:
    session = runner.session
    name = session.study.study_name
    if session.abandoned:
        console.print(f"{session.abandoned} trials of a run that died are abandoned")
    console.print(f"study {name} in {shown(storage)}")
    try:
        runner.run(limit)
        if finalists and not runner.interrupt.asked:
            retime_finalists(console, session, runner.interrupt)
    except KeyboardInterrupt:
        runner.interrupt.asked = True
    wall_s = time.monotonic() - begin
    with runner.interrupt.ignored():  # a Ctrl-C that comes late must not cost the report
        results = read_results(session.study)
        publish(session.study)
        print_verdict(console, results)
        print_outcomes(console, results)
        session.seconds["worker start"] = sum(map(sum, starts))
        print_time(console, session.seconds, wall_s, runner.trials, max(1, len(session.workers)))
        if ahead := queue.stats.line():
            console.print(ahead, highlight=False)
        print_coverage(console, session.coverage(), session.expected_gains())
        console.print(stopping_reason(runner, session, limit.trials))
        stopped = runner.interrupt.asked or runner.out_of_time
        _print_next(results, storage, limit.trials, session.survey.size, resume=stopped)
    if runner.interrupt.asked:
        raise typer.Exit(130)
    if not any(result.winners for result in results.workloads):
        raise typer.Exit(1)


def _print_next(results: Results, storage: str, trials: int, size: int, *, resume: bool) -> None:
    where = storage_words(storage)
    study = f" --study {shlex.quote(results.study_name)}"
    console.print("next:")
    lines = [
        f"python -m search dashboard{study}{where}",
        f"python -m search report{study}{where} --output report.html",
        f"python -m search export{study}{where} --output best.json",
    ]
    told = len(results.trials)
    if resume:
        lines.append(f"python -m search run{study}{where} --trials {trials}   (resumes)")
    elif told < size:
        lines.append(f"python -m search run{study}{where} --trials {told + 200}   (goes on)")
    for line in lines:
        console.print(f"  {line}", highlight=False, soft_wrap=True)
