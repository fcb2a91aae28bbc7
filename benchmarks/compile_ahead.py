"""Wall time of a search over FlexAttention, with and without compiling ahead."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from benchmarks.cases import Minutes, kind_here, within
from benchmarks.same_numbers import compare, measured
from objectives.precompile.precompile_pool import PrecompilePool, most_processes
from objectives.precompile.queue import CompileQueue, PrecompileStats
from objectives.process.placement import Placement
from objectives.schema.evaluation import Measurements, Outcome
from objectives.schema.limits import Limits
from objectives.trial.bench import DeviceBench
from studies.session.session import Session
from studies.space.space import SearchSpace, survey
from studies.study.opening import open_study
from studies.study.plan import Plan
from studies.study.study import open_storage
from variants.axes import Choice

Way = Literal["without", "ahead"]
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


@contextmanager
def empty_caches() -> Iterator[Path]:
    """Give the processes that are started here caches of their own, empty. Yields their folder."""
    before = {name: os.environ.get(name) for name in CACHES}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update({name: str(Path(folder) / name.lower()) for name in CACHES})
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def flex_space() -> SearchSpace:
    """Return more than a hundred configurations of FlexAttention (on a CPU fewer)."""
    cuda = kind_here() == "cuda"
    axes: dict[str, tuple[Choice, ...]] = {
        "phase": ("decode", "prefill"),
        "seq_len": (512, 1024, 2048) if cuda else (64, 128, 192),
        "q_heads": (16,) if cuda else (2,),
        "head_dim": (128,) if cuda else (32,),
        "score_mod": ("none", "alibi", "softcap"),
        "backend": ("flex",),
        "precision": ("bf16", "fp16"),
        "cache": ("static", "concat", "paged"),
        "execution": ("eager", "compiled"),
    }
    return SearchSpace(axes=axes)


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search took, what was compiled ahead, and what it found."""

    seconds: list[float]  # of each trial
    stats: PrecompileStats
    measured: dict[str, Measurements]  # by key


def search(count: int, processes: int, sampler: str, minutes: float) -> Searched:
    """Search with so many compiling processes and empty caches."""
    limits, kind, queue = Limits(), kind_here(), CompileQueue()
    with empty_caches() as folder:
        ahead = PrecompilePool(queue, processes, seed=0, device=kind, deadline_s=limits.deadline_s)
        bench = DeviceBench(limits, seed=0, device=kind, precompile=ahead if processes else None)
        try:
            plan = Plan(space=flex_space(), limits=limits, sampler=sampler, seed=0)
            found = survey(plan.space, bench.device())
            storage = open_storage(f"sqlite:///{folder / 'study.db'}")
            study = open_study(storage, "ahead", plan, bench.environment())
            session = Session(study, plan, found, bench)
            list(session.baselines.measure_missing())
            session.on_likely = queue.wish if processes else None
            seconds = []
            for _ in within(range(min(count, found.size)), minutes):
                before = time.monotonic()
                outcome = session.trial().outcome
                seconds.append(time.monotonic() - before)
                if outcome is not Outcome.MEASURED:
                    print(f"one is {outcome.value}", flush=True)
            return Searched(seconds, queue.stats, measured(study)[1])
        finally:
            bench.close()


def main(
    count: Annotated[int, typer.Option(min=1, help="Configurations.")] = 100,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that compile ahead. [default: up to 8]")
    ] = None,
    sampler: Annotated[str, typer.Option(help="Whose order.")] = "random",
    only: Annotated[
        Way | None, typer.Option(help="One way alone, where time is short. [default: both]")
    ] = None,
    minutes: Minutes = 20.0,
) -> None:
    """Measure the same `count` configurations of FlexAttention both ways."""
    asked = processes or max(1, min(8, most_processes(Placement(""))))
    found = {}
    ways = (only,) if only else get_args(Way)
    for way in ways:
        number = 0 if way == "without" else asked
        found[way] = search(count, number, sampler, minutes / len(ways))
        seconds = found[way].seconds
        print(
            f"with {number} processes: {sum(seconds):.1f} s for {len(seconds)} trials", flush=True
        )
        if number:
            print(f"  {found[way].stats.line()}")
    if len(found) < 2:
        return
    both = min(len(one.seconds) for one in found.values())
    without, ahead = (sum(found[way].seconds[:both]) for way in ("without", "ahead"))
    compare(found["without"].measured, found["ahead"].measured, count)
    print(f"{both} configurations: {without:.1f} s, ahead {ahead:.1f} s, {without / ahead:.2f} ×")


if __name__ == "__main__":
    typer.run(main)
