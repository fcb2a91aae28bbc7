"""The `run` command: open a study, drive its search, print the verdict."""

from __future__ import annotations

import time
from collections.abc import Sequence

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
from objectives.schema.limits import Limits
from objectives.trial.bench import DeviceBench, start_together
from search.documents.space_document import space_document
from search.documents.study_document import RunNumbers, study_document
from search.options.choices import UsageError, gather_choices
from search.options.command_options import with_options
from search.options.run_settings import TRIALS, RunSettings
from search.runner import Limit, Runner, stopping_reason
from search.views.finals import retime_finalists
from search.views.next_commands import next_commands
from search.views.screen import print_screen
from search.views.terminal import aloud, make_console, print_json, spoken
from search.views.verdict import (
    print_changed,
    print_coverage,
    print_outcomes,
    print_space,
    print_time,
    print_verdict,
)
from studies.dashboard.publisher import publish
from studies.results.labels import duration
from studies.results.results import read_results
from studies.session.estimate import estimate_s
from studies.session.preload import preload_in_background
from studies.session.session import Session
from studies.session.worker_pool import Worker
from studies.space.defaults import default_axes, default_max_error
from studies.space.space import Survey, fill_defaults, survey
from studies.storage.url import shown
from studies.study.opening import open_study, stored_plan
from studies.study.plan import Plan
from studies.study.study import existing_storage, load_study, open_storage
from studies.study.trials import FinishedTrial
from variants.device import Device, DeviceKind
from variants.plugins import loaded_plugins

console = make_console()
OWN_WORKLOAD = (
    "These are defaults. Your own workload: --batch 8 --seq-len 4096 --q-heads 32 "
    "--kv-heads 8 --head-dim 128, or --space FILE.toml"
)


@with_options
def run(settings: RunSettings) -> None:
    """Search: measure configurations, then print each workload's winners against its default."""
    with spoken(console, as_json=settings.as_json, quiet=settings.quiet):
        _run(settings)


def _run(settings: RunSettings) -> None:
    given = gather_choices(
        settings.axes,
        preset=settings.preset,
        model=settings.model,
        space=settings.space,
        phases=True,
    )
    settings.check()
    # A dry run, and one that cannot begin, leave no database behind where there is none.
    there = existing_storage(settings.storage)
    stored = None if there is None else stored_plan(there, settings.study)
    limits, sampler, seed = settings.resolved(stored, default_max_error(given))
    tracks = _placements(settings.workers, settings.kind)
    queue = CompileQueue()
    benches, ahead = _benches(settings, tracks, queue, limits, seed)
    begin = time.monotonic()
    try:
        if not settings.dry_run:
            preload_in_background()
        _warn_of_cores(settings.compile_ahead, tracks)
        here = start_together(benches[:1] if settings.dry_run else benches)
        _warn_of_neighbours(here, len(tracks))
        base = default_axes(here) if stored is None else stored.space.axes
        found = survey(fill_defaults(given, base), here)
        trials = settings.probe or settings.trials or TRIALS
        told: tuple[FinishedTrial, ...] = ()
        due = 0
        if stored is not None and there is not None:
            results = read_results(load_study(there, settings.study))
            told = results.trials
            due = sum(not result.timed_in_turns for result in results.workloads)
        expected_s = estimate_s(
            found,
            here.kind,
            trials,
            finalists=settings.finalists,
            told=told,
            due=due,
            workers=len(tracks),
        )
        with aloud(console, aloud=settings.dry_run and not settings.as_json):
            print_space(console, found, all_reasons=settings.dry_run)
            _introduce(found, here, trials, expected_s)
            if not given and stored is None:
                console.print(OWN_WORKLOAD)
        if settings.dry_run:
            if settings.as_json:
                print_json(space_document(found, here, trials, expected_s))
            return
        plan = Plan(
            space=found.space,
            limits=limits,
            sampler=sampler,
            seed=seed,
            plugins=tuple(plugin.plugin for plugin in loaded_plugins()),
        )
        begun = open_study(
            there or open_storage(settings.storage),
            settings.study,
            plan,
            benches[0].environment(),
            new_environment=settings.new_environment,
        )
        name = tracks[0].name if len(tracks) > 1 else here.kind
        session = Session(
            begun, plan, found, benches[0], name, joined=bool(stored), take_over=settings.take_over
        )
        session.on_likely = queue.wish if ahead else None
        more = zip(benches[1:], tracks[1:], strict=True)
        session.workers += [Worker(bench, placement.name) for bench, placement in more]
        runner = Runner(
            console,
            session,
            keep_all_workers=settings.new_environment,
            finalists=settings.finalists,
            begun=begin,
        )
        starts = [bench.process.start_seconds for bench in benches]
        _search(runner, begin, starts, _limit(settings, session), settings, queue)
    finally:
        for bench in benches:
            bench.close()


def _benches(
    settings: RunSettings,
    tracks: Sequence[Placement],
    queue: CompileQueue,
    limits: Limits,
    seed: int,
) -> tuple[list[DeviceBench], bool]:
    """Return a bench for each place to measure at, not started, and whether any has helpers."""
    helpers = precompile_pools(
        tracks,
        settings.compile_ahead,
        queue,
        seed=seed,
        device=settings.kind,
        deadline_s=limits.deadline_s,
    )
    benches = [
        DeviceBench(limits, seed=seed, device=settings.kind, placement=placement, precompile=ahead)
        for placement, ahead in zip(tracks, helpers, strict=True)
    ]
    return benches, any(helpers)


def _limit(settings: RunSettings, session: Session) -> Limit:
    """Return when to stop; with `--probe`, behind the probes that are added here."""
    trials = settings.trials or TRIALS
    if settings.probe is not None:
        trials = session.tried() + session.add_probes(settings.probe)
    return Limit(trials, settings.minutes, settings.patience)


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


def _introduce(found: Survey, here: Device, trials: int, expected_s: float) -> None:
    count = min(trials, found.size)
    console.print(
        f"on {here.name}, torch {here.torch}; about {duration(expected_s)} for {count} trials"
    )


def _warn_of_neighbours(here: Device, count: int) -> None:
    others = foreign_gpu_processes(visible_gpus()[:count]) if here.kind == "cuda" else []
    if others:
        console.print(
            f"warning: the GPU is also used by {', '.join(others)}: latencies will be noisy, and "
            "memory that they hold is missing here",
            style="yellow",
        )


def _warn_of_cores(helpers: int, tracks: Sequence[Placement]) -> None:
    if fewer := why_fewer_processes(helpers, tracks):
        console.print(fewer, style="yellow")


def _search(
    runner: Runner,
    begin: float,
    starts: Sequence[list[float]],
    limit: Limit,
    settings: RunSettings,
    queue: CompileQueue,
) -> None:
    session = runner.session
    name = session.study.study_name
    if session.abandoned:
        console.print(f"{session.abandoned} trials of a run that died are abandoned")
    console.print(f"study {name} in {shown(settings.storage)}")
    try:
        runner.run(limit)
        if settings.finalists and not runner.interrupt.asked:
            retime_finalists(console, session, runner.interrupt)
    except KeyboardInterrupt:
        runner.interrupt.asked = True
    wall_s = time.monotonic() - begin
    with runner.interrupt.ignored():  # a Ctrl-C that comes late must not cost the report
        results = read_results(session.study)
        publish(session.study)
        session.seconds["worker start"] = sum(map(sum, starts))
        devices = max(1, len(session.workers))
        if settings.show_all:
            print_verdict(console, results)
            print_outcomes(console, results)
            print_coverage(console, session.coverage(), session.expected_gains())
        print_time(
            console,
            session.seconds,
            wall_s,
            runner.trials,
            devices,
            in_a_line=not settings.show_all,
        )
        if ahead := queue.stats.line():
            console.print(ahead, highlight=False)
        print_changed(console, results)
        ended = stopping_reason(runner, session, limit.trials, wall_s)
        console.print(ended)
        stopped = runner.interrupt.asked or runner.out_of_time
        commands = next_commands(
            results,
            settings.storage,
            size=session.survey.size,
            stopped_at=limit.trials if stopped else None,
        )
        with aloud(console, aloud=not settings.as_json):
            print_screen(console, results, commands)
        if settings.as_json:
            part = RunNumbers(
                ended=ended,
                interrupted=runner.interrupt.asked,
                trials=runner.trials,
                wall_s=wall_s,
                seconds=dict(session.seconds),
                next=tuple(commands),
            )
            print_json(study_document(results, settings.storage, "run", part))
    if runner.interrupt.asked:
        raise typer.Exit(130)
    if not any(result.winners for result in results.workloads):
        raise typer.Exit(1)
