"""Our own time a trial, beside a plain loop in one process that isolates nothing."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import typer

from benchmarks.cases import Count, Minutes, evaluator, in_a_process, kind_here, sdpa_cases, within
from objectives.metrics.accuracy import References, largest_error
from objectives.schema.limits import Limits
from objectives.trial.bench import DeviceBench
from studies.session.session import Session
from studies.space.space import SearchSpace, survey
from studies.study.opening import open_study
from studies.study.plan import Plan
from studies.study.study import open_storage
from variants.configuration import Configuration
from variants.layer.run import Run

# Of a trial's stages: what is not compilation, warm-up, the configuration's kernels or the check.
OWN = ("search", "storage", "transfer", "build", "free", "kernels")


def plain(count: int, minutes: float) -> list[float]:
    """Build, check, weigh and time one configuration after the other. Returns seconds of each."""
    of = evaluator(0.1)
    device = torch.device(of.device.kind)
    references = References(device, 0)
    seconds = []
    for configuration in within(sdpa_cases(of.device, count), minutes):
        before = time.monotonic()
        reference = references.of(configuration.workload)
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        run = Run(configuration, device, 0)
        outs = [run.results(run.step(index)) for index in range(run.steps)]
        joined = {name: torch.cat([out[name] for out in outs], dim=1).cpu() for name in outs[0]}
        largest_error(joined, reference)
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.max_memory_allocated()
        _time(run, device)
        del run, outs, joined
        seconds.append(time.monotonic() - before)
    return seconds


def _time(run: Run, device: torch.device) -> float:
    """Return the median of 41 samples of a step, by events with a flushed cache on CUDA."""
    times: list[float] = []
    flush = torch.empty(2**28 if device.type == "cuda" else 1, dtype=torch.int8, device=device)
    while len(times) < 41:
        run.restart()
        for index in range(run.steps):
            if device.type == "cpu":
                before = time.perf_counter()
                run.step(index)
                times.append(time.perf_counter() - before)
                continue
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.zero_()
            start.record()
            run.step(index)
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
    return statistics.median(times)


def ours(chosen: Sequence[Configuration], minutes: float) -> list[dict[str, float]]:
    """Search the same configurations as a study does. Returns seconds by stage of each trial."""
    axes: dict[str, tuple[int | str, ...]] = {}
    for name in ("batch", "seq_len", "q_heads"):
        axes[name] = tuple(sorted({getattr(c.workload, name) for c in chosen}))
    for name in ("backend", "precision", "cache"):
        axes[name] = tuple(sorted({getattr(c.variant, name) for c in chosen}))
    with tempfile.TemporaryDirectory() as folder:
        limits = Limits()
        bench = DeviceBench(limits, seed=0, device=kind_here())
        try:
            plan = Plan(space=SearchSpace(axes=axes), limits=limits, sampler="random", seed=0)
            found = survey(plan.space, bench.device())
            storage = open_storage(f"sqlite:///{Path(folder) / 'study.db'}")
            study = open_study(storage, "overhead", plan, bench.environment())
            session = Session(study, plan, found, bench)
            list(session.baselines.measure_missing())
            trials = []
            for _ in within(range(min(len(chosen), found.size)), minutes):
                before, begin = dict(session.seconds), time.monotonic()
                session.trial()
                spent = {
                    stage: session.seconds[stage] - before.get(stage, 0.0)
                    for stage in session.seconds
                }
                spent["whole trial"] = time.monotonic() - begin
                trials.append(spent)
            return trials
        finally:
            bench.close()


def main(count: Count = 300, minutes: Minutes = 9.0) -> None:
    """Measure `count` configurations of SDPA (no flex) both ways."""
    loop = in_a_process(plain, count, minutes / 2)
    print(f"plain loop: {sum(loop):.1f} s for {len(loop)}, median {_ms(loop)} ms", flush=True)
    chosen = sdpa_cases(evaluator(0.1).device, count)
    trials = ours(chosen, minutes / 2)
    whole = [trial["whole trial"] for trial in trials]
    print(f"as trials: {sum(whole):.1f} s for {len(whole)}, median {_ms(whole)} ms")
    for stage in dict.fromkeys(stage for trial in trials for stage in trial):
        mark = "own" if stage in OWN else ""
        print(f"  {stage:14} {_ms([trial.get(stage, 0.0) for trial in trials]):>8} ms  {mark}")
    own = [sum(trial.get(stage, 0.0) for stage in OWN) for trial in trials]
    print(f"own time a trial: median {_ms(own)} ms (wanted: ≤ 100, better ≤ 50)")


def _ms(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.1f}"


if __name__ == "__main__":
    typer.run(main)
