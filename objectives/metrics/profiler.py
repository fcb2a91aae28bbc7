"""Profiles one configuration in the measuring process.

Three passes, since each disturbs the others: memory by stage, the profiler's, and on CUDA the
allocator's history. None of them is timed: numbers to compare come from a trial.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch._C._autograd import DeviceType

from objectives.metrics.memory import MIB, settle
from objectives.metrics.steps import run_steps_cold
from objectives.schema.profile import Allocated, KernelTime, OperatorTime, Profile, StageMemory
from variants.configuration import Configuration
from variants.layer.run import Run

MOST_ROWS = 25  # of each table
HISTORY = 100_000  # allocations that a snapshot holds
BEFORE = "(there before the steps)"
_MARK = "goldilocks: "
_STEPS = _MARK + "profiled steps"
_RESTART = "restart"  # ours, no model does it
_MAX_NAME = 160  # characters; C++ template names run to thousands
# Whoever asked for memory is above them.
_ALLOCATORS = ("aten::empty", "aten::new_empty", "aten::resize_", "cuda", "[memory]")


class TimeSpan(NamedTuple):
    """An operator on the host's time line, in ns."""

    start: int
    end: int
    name: str


class AllocationEvent(NamedTuple):
    """An allocation, or a release where bytes are negative."""

    time: int
    nbytes: int


def profile_configuration(
    configuration: Configuration, device: torch.device, seed: int, folder: Path, prefix: str
) -> Profile:
    """Profile all steps of a configuration and leave trace and snapshot in `folder`."""
    run, memory = _memory_by_stage(configuration, device, seed)
    profiler, resident = _profiled(run, device)
    trace = f"{prefix}trace.json"
    profiler.export_chrome_trace(str(folder / trace))
    events = _events(profiler)
    begin = next(event.start_ns() for event in events if event.name() == _STEPS)
    kernels = _kernels(events)
    snapshot = None
    if device.type == "cuda":
        snapshot = _snapshot(run, folder, f"{prefix}memory.pickle")
    return Profile(
        configuration=configuration,
        steps=run.steps,
        operators=_operators(profiler),
        kernels=_kernel_times(kernels),
        launches=len(kernels),
        device_busy_ms=busy_ns((start, end) for start, end, _ in kernels) / 1e6,
        memory=tuple(memory),
        allocations=tuple(
            by_operator(_changes(events, begin, device), _spans(events), resident)[:MOST_ROWS]
        ),
        trace=trace,
        snapshot=snapshot,
    )


def _memory_by_stage(
    configuration: Configuration, device: torch.device, seed: int
) -> tuple[Run, list[StageMemory]]:
    built: list[Run] = []

    def build() -> None:
        built.append(Run(configuration, device, seed))

    def steps() -> None:
        run_steps_cold(built[0], lambda results: None)

    def restart() -> None:
        built[0].restart()

    stages = (("build", build), ("first steps", steps), (_RESTART, restart), ("steps", steps))
    memory = _weighed_cuda(stages) if device.type == "cuda" else _weighed_cpu(stages)
    return built[0], [of_stage for of_stage in memory if of_stage.stage != _RESTART]


Stages = Sequence[tuple[str, Callable[[], None]]]


def _weighed_cuda(stages: Stages) -> list[StageMemory]:
    settle()
    before = torch.cuda.memory_allocated()
    found = []
    for name, work in stages:
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        found.append(
            StageMemory(
                stage=name,
                peak_mib=(torch.cuda.max_memory_allocated() - before) / MIB,
                after_mib=(torch.cuda.memory_allocated() - before) / MIB,
            )
        )
    return found


def _weighed_cpu(stages: Stages) -> list[StageMemory]:
    """Weigh all stages in one go: releases of what it did not see the profiler does not see."""
    from torch.profiler import ProfilerActivity, profile, record_function

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for name, work in stages:
            with record_function(_MARK + name):
                work()
    events = _events(profiler)
    begins = {event.name(): event.start_ns() for event in events if _MARK in event.name()}
    changes = sorted(_changes(events, begins[_MARK + stages[0][0]], torch.device("cpu")))
    found, now = [], 0
    for (name, _), (after, _) in zip(stages, [*stages[1:], ("", None)], strict=True):
        end = begins.get(_MARK + after)
        peak = now
        while changes and (end is None or changes[0].time < end):
            now += changes.pop(0).nbytes
            peak = max(peak, now)
        found.append(StageMemory(stage=name, peak_mib=peak / MIB, after_mib=now / MIB))
    return found


def _profiled(run: Run, device: torch.device) -> tuple[Any, int]:
    """Profile all steps. Returns the profiler and the bytes that were there before them."""
    from torch.profiler import ProfilerActivity, profile, record_function

    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, profile_memory=True) as profiler:
        run.restart()  # inside: steps release what this allocates
        resident = run.resident_bytes()
        with record_function(_STEPS):
            for index in range(run.steps):
                run.step(index)
        if device.type == "cuda":
            torch.cuda.synchronize()
    return profiler, resident


def _events(profiler: Any) -> list[Any]:
    results = profiler.profiler.kineto_results
    assert results is not None
    return list(results.events())


def _operators(profiler: Any) -> tuple[OperatorTime, ...]:
    rows = [
        OperatorTime(
            name=average.key[:_MAX_NAME],
            calls=average.count,
            host_ms=average.self_cpu_time_total / 1e3,
            device_ms=average.self_device_time_total / 1e3,
        )
        for average in profiler.key_averages()
        if average.key != _STEPS and average.device_type == DeviceType.CPU
    ]
    rows.sort(key=lambda row: max(row.host_ms, row.device_ms), reverse=True)
    return tuple(rows[:MOST_ROWS])


def _kernels(events: Sequence[Any]) -> list[TimeSpan]:
    """Return what ran on the device.

    The profiler repeats the host's annotations on the device's time line: what the host has by
    the same name is no kernel.
    """
    of_host = {event.name() for event in events if event.device_type() == DeviceType.CPU}
    return [
        TimeSpan(event.start_ns(), event.start_ns() + event.duration_ns(), event.name())
        for event in events
        if event.device_type() == DeviceType.CUDA
        and event.name() not in of_host
        and event.duration_ns() > 0
    ]


def _kernel_times(kernels: Sequence[TimeSpan]) -> tuple[KernelTime, ...]:
    calls: dict[str, list[int]] = defaultdict(list)
    for start, end, name in kernels:
        calls[name[:_MAX_NAME]].append(end - start)
    total = sum(sum(times) for times in calls.values())
    rows = [
        KernelTime(name=name, calls=len(ns), device_ms=sum(ns) / 1e6, share=sum(ns) / total)
        for name, ns in calls.items()
    ]
    rows.sort(key=lambda row: row.device_ms, reverse=True)
    return tuple(rows[:MOST_ROWS])


def busy_ns(intervals: Iterable[tuple[int, int]]) -> int:
    """Return how much time is covered by at least one of the intervals."""
    covered, reached = 0, 0
    for start, end in sorted(intervals):
        covered += max(0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def _spans(events: Iterable[Any]) -> list[TimeSpan]:
    return [
        TimeSpan(event.start_ns(), event.start_ns() + event.duration_ns(), event.name())
        for event in events
        if event.device_type() == DeviceType.CPU and not event.name().startswith(_ALLOCATORS)
    ]


def _changes(events: Iterable[Any], begin: int, device: torch.device) -> list[AllocationEvent]:
    kind = DeviceType.CUDA if device.type == "cuda" else DeviceType.CPU
    return [
        AllocationEvent(event.start_ns(), event.nbytes())
        for event in events
        if event.name() == "[memory]" and event.device_type() == kind and event.start_ns() >= begin
    ]


def by_operator(
    changes: Sequence[AllocationEvent], spans: Sequence[TimeSpan], resident: int
) -> list[Allocated]:
    """Return whose allocations exist when memory peaks, the largest first.

    An allocation belongs to the innermost operator that was running when it was made. A release
    is taken for that of the newest allocation of its size: the profiler tells no addresses.
    """
    waiting = sorted(spans)[::-1]
    running: list[TimeSpan] = []
    alive: dict[int, list[str]] = defaultdict(list)  # by size: who allocated, oldest first
    now = Counter({BEFORE: resident})
    peak, at_peak = resident, Counter(now)
    allocated: dict[str, list[int]] = defaultdict(list)
    for time, nbytes in sorted(changes):
        if nbytes < 0:
            owners = alive[-nbytes]
            now[owners.pop() if owners else BEFORE] += nbytes
            continue
        while waiting and waiting[-1].start <= time:
            running.append(waiting.pop())
        running = [span for span in running if span.end >= time]
        inner = max(running, key=lambda span: (span.start, -span.end), default=None)
        name = "(outside of any operator)" if inner is None else inner.name[:_MAX_NAME]
        alive[nbytes].append(name)
        allocated[name].append(nbytes)
        now[name] += nbytes
        if now.total() > peak:
            peak, at_peak = now.total(), Counter(now)
    rows = [
        Allocated(
            operator=name,
            calls=len(allocated[name]),
            allocated_mib=sum(allocated[name]) / MIB,
            at_peak_mib=at_peak[name] / MIB,
        )
        for name in (BEFORE, *allocated)
    ]
    return sorted(rows, key=lambda row: (-row.at_peak_mib, -row.allocated_mib))


def _snapshot(run: Run, folder: Path, name: str) -> str:
    """Write the allocator's history of all steps, for pytorch.org/memory_viz."""
    run.layer.release_graph()
    run.restart()
    torch.cuda.memory._record_memory_history(
        enabled="all", context="all", stacks="python", max_entries=HISTORY
    )
    try:
        for index in range(run.steps):
            run.step(index)
        torch.cuda.synchronize()
        torch.cuda.memory._dump_snapshot(str(folder / name))
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
    return name
