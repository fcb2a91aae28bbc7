"""Peak memory of consecutive steps, in a pass of its own, with its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from objectives.schema.evaluation import Memory
from variants.layer.run import Run

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
    """Run all steps once and weigh them. `baseline` is None on CPU.

    A captured step is captured again here: replaying allocates nothing, and what it needs was
    allocated by its capture.
    """
    run.layer.release_graph()
    run.restart()
    if baseline is None:
        peak, reserved = _cpu_peak(run), None
    else:
        peak, reserved = _cuda_peak(run, baseline)
    workload = run.configuration.workload
    weights, cache = run.layer.weight_bytes, run.layer.cache_bytes
    gradients, saved = (run.gradient_bytes(), _saved(run)) if workload.trains else (0, 0)
    of_a_layer = weights + cache + gradients + saved
    transient = peak - of_a_layer
    return Memory(
        peak_mib=(workload.layers * of_a_layer + transient) / MIB,
        weights_mib=weights / MIB,
        cache_mib=cache / MIB,
        gradients_mib=gradients / MIB,
        saved_mib=saved / MIB,
        transient_mib=transient / MIB,
        reserved_mib=None if reserved is None else reserved / MIB,
        workspace_mib=None if workspace_bytes is None else workspace_bytes / MIB,
    )


def _saved(run: Run) -> int:
    """Return the bytes that are there after a forward pass and were not before.

    The output is one of them: it is the input that the next layer of a model keeps.
    """
    run.restart()
    if run.layer.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        out = run.forward(0)
        saved = torch.cuda.memory_allocated() - before
    else:
        kept: list[torch.Tensor] = []
        saved = sum(_cpu_changes(lambda: kept.append(run.forward(0)), lambda: None))
        (out,) = kept
    run.backward(out)
    return saved


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
    resident = 0

    def before() -> None:
        # Inside, because the profiler does not see the release of what it did not see allocated.
        nonlocal resident
        run.restart()
        resident = run.resident_bytes()

    def steps() -> None:
        for index in range(run.steps):
            run.step(index)

    now = peak = 0
    for change in _cpu_changes(steps, before):
        now += change
        peak = max(peak, now)
    return resident + peak


def _cpu_changes(work: Callable[[], object], before: Callable[[], object]) -> list[int]:
    """Return the bytes that `work` allocates (and, negative, frees), in order."""
    from torch.profiler import ProfilerActivity, profile, record_function

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        before()
        with record_function(_STEPS):
            work()
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
    return [nbytes for _, nbytes in sorted(changes, key=lambda change: change[0])]
