"""Peak memory of consecutive steps, in a pass of its own, with its parts."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from objectives.evaluation import Memory
from variants.run import Run

MIB = 2**20
_STEPS = "goldilocks: steps"


def settle() -> None:
    """Give freed CUDA memory back to the driver, so that no trial sees the segments of another.

    The allocator hands out a cached block that is up to 1 MiB too large as a whole, and counts
    it as a whole: without this, peaks depend on the trials before.
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the CUDA allocator held before a configuration was built, in bytes."""

    allocated: int
    reserved: int


def cuda_baseline() -> Baseline:
    """Settle the allocator and read it."""
    settle()
    return Baseline(torch.cuda.memory_allocated(), torch.cuda.memory_reserved())


def measure_memory(run: Run, baseline: Baseline | None, workspace_bytes: int | None) -> Memory:
    """Run all steps once and weigh them. `baseline` is None on CPU."""
    run.restart()
    if baseline is None:
        peak, reserved = _cpu_peak(run), None
    else:
        peak, reserved = _cuda_peak(run, baseline)
    workload = run.configuration.workload
    weights, cache = run.layer.weight_bytes, run.layer.cache_bytes
    transient = peak - weights - cache
    return Memory(
        peak_mib=(workload.layers * (weights + cache) + transient) / MIB,
        weights_mib=weights / MIB,
        cache_mib=cache / MIB,
        transient_mib=transient / MIB,
        reserved_mib=None if reserved is None else reserved / MIB,
        workspace_mib=None if workspace_bytes is None else workspace_bytes / MIB,
    )


def _cuda_peak(run: Run, baseline: Baseline) -> tuple[int, int]:
    settle()
    torch.cuda.reset_peak_memory_stats()
    for index in range(run.steps):
        run.step(index)
    torch.cuda.synchronize()
    return (
        torch.cuda.max_memory_allocated() - baseline.allocated,
        torch.cuda.max_memory_reserved() - baseline.reserved,
    )


def _cpu_peak(run: Run) -> int:
    """Return the running maximum of the profiler's allocation events over what was there."""
    from torch.profiler import ProfilerActivity, profile, record_function

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        # Inside, because the profiler does not see the release of what it did not see allocated.
        run.restart()
        resident = run.resident_bytes()
        with record_function(_STEPS):
            for index in range(run.steps):
                run.step(index)
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    events = results.events()
    begin = next(event.start_ns() for event in events if event.name() == _STEPS)
    changes = [
        (event.start_ns(), event.nbytes())
        for event in events
        if event.name() == "[memory]" and event.start_ns() >= begin
    ]
    now = peak = 0
    for _, nbytes in sorted(changes, key=lambda change: change[0]):
        now += nbytes
        peak = max(peak, now)
    return resident + peak
