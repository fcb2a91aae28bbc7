"""Times several configurations in turns, in one process, so that their ratios can be believed.

What drifts between trials (clocks, temperature, the load of the host) meets all of them alike: a
round times each once, in a fresh order, and ratios are taken within a round.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from statistics import fmean
from typing import NamedTuple

import torch

from objectives.metrics.steps import run_steps_cold, run_steps_warm
from objectives.schema.comparison import MIN_ROUNDS, Comparison, Retimed
from objectives.timing.affinity import CoreSelector
from objectives.timing.held_stream import HeldStream
from objectives.timing.latency import HOST_QUANTILE
from objectives.timing.passes import HOLD_RETRIES, HeldPasses, for_gpu, for_host
from objectives.timing.sampling import (
    BURST_S,
    SampleMonitor,
    Throttled,
    quantile_interval,
    quantile_of,
)
from variants.configuration import Configuration
from variants.layer.run import Run

PRECISE_ROUNDS = 16  # before a ratio may pass for known
MAX_ROUNDS = 400
BURST_ROUNDS = 8  # between two looks at the device, unless they take long
PRECISE = 0.005  # half-width of the 95 % interval of a median ratio
# Layers compiled in one process share a limit of graphs, past which PyTorch raises.
RECOMPILE_LIMIT = 256


class Turn(NamedTuple):
    """Times of one pass over the steps of a configuration, in ms a step, all layers together."""

    gpu_ms: float | None  # mean of the steps; None on CPU
    host_ms: float  # low quantile of the steps on CUDA, median on CPU

    @property
    def latency_ms(self) -> float:
        """The larger of the two."""
        return self.host_ms if self.gpu_ms is None else max(self.gpu_ms, self.host_ms)


Pass = Callable[[], Turn]
PreparedRun = tuple[Pass, Callable[[], bool | None]]  # a pass, and whether it was held


def take_turns(
    passes: Sequence[Pass],
    *,
    budget_s: float,
    rng: random.Random,
    monitor: SampleMonitor,
    cores: CoreSelector | None = None,
    now: Callable[[], float] = time.monotonic,
) -> list[list[Turn]]:
    """Call each pass once a round, in a fresh order each time, until the ratios are known.

    Rounds that `monitor` calls unclean are discarded. A round begins on one of `cores` that is
    at full speed, where there is one, and stays there.

    Returns:
        The turns of each pass, by round.

    Raises:
        Throttled: All rounds were discarded.
    """
    monitor.clean()
    deadline = now() + budget_s
    turns: list[list[Turn]] = [[] for _ in passes]
    with cores or nullcontext():
        while True:
            begin = now()
            burst = _burst(passes, rng, cores, min(begin + BURST_S, deadline), now)
            if monitor.clean():
                for taken, new in zip(turns, burst, strict=True):
                    taken += new
            elif monitor.gives_up:
                if not turns[0]:
                    raise Throttled(monitor.reason)
                return turns
            else:
                deadline += now() - begin
                continue
            rounds = len(turns[0])
            if rounds >= MAX_ROUNDS or (rounds >= PRECISE_ROUNDS and _known(turns)):
                return turns
            if rounds >= MIN_ROUNDS and now() >= deadline:
                return turns


def _burst(
    passes: Sequence[Pass],
    rng: random.Random,
    cores: CoreSelector | None,
    until: float,
    now: Callable[[], float],
) -> list[list[Turn]]:
    """Return the turns of each pass in some rounds, at least one."""
    burst: list[list[Turn]] = [[] for _ in passes]
    while not burst[0] or (len(burst[0]) < BURST_ROUNDS and now() < until):
        if cores is not None:
            cores.settle()
        for index in rng.sample(range(len(passes)), len(passes)):
            burst[index].append(passes[index]())
    return burst


def _known(turns: Sequence[Sequence[Turn]]) -> bool:
    base, *others = turns
    for other in others:
        for quantity in (_gpu_or_host, _latency):
            logs = [math.log(quantity(o) / quantity(b)) for o, b in zip(other, base, strict=True)]
            low, high = quantile_interval(logs, 0.5)
            if high - low > 2 * PRECISE:
                return False
    return True


def _gpu_or_host(turn: Turn) -> float:
    return turn.host_ms if turn.gpu_ms is None else turn.gpu_ms


def _latency(turn: Turn) -> float:
    return turn.latency_ms


def compare(
    configurations: Sequence[Configuration],
    prepare: Callable[[Configuration], PreparedRun],
    refusal: Callable[[Exception], str | None],
    free: Callable[[], None],
    *,
    budget_s: float,
    rng: random.Random,
    monitor: Callable[[], SampleMonitor],
    cores: CoreSelector | None,
) -> Comparison:
    """Time all `configurations` in turns, as many at once as fit into memory.

    Args:
        configurations: The first is timed in every group.
        prepare: Builds and warms one; what it returns keeps it alive.
        refusal: The reason why an exception of `prepare` is its configuration's own, or None.
        free: Called after an out-of-memory and after each group, when nothing refers to it.
        budget_s: For each configuration of a group.
        rng: Decides the order of turns.
        monitor: Returns what tells, over one group, whether samples count.
        cores: On which the host's part is timed; None leaves the thread where it is.
    """
    begin = time.monotonic()
    first, *waiting = configurations
    missing: dict[str, str] = {}
    groups: list[tuple[Retimed, ...]] = []
    while waiting or not (groups or missing):
        alive, waiting = _prepare_together(first, waiting, prepare, refusal, free, missing)
        if not alive:
            reason = f"{first.variant.key}, against which it is timed, was not: "
            reason += missing[first.key]
            missing |= {c.key: reason for c in waiting}
            break
        if len(alive) > 1 or not groups:
            try:
                groups.append(
                    _timed(alive, budget_s=budget_s, rng=rng, monitor=monitor(), cores=cores)
                )
            except Throttled as error:
                missing |= {c.key: str(error) for c in (*alive, *waiting)}
                waiting = []
        alive.clear()
        free()
    # The first was, if only in an earlier group than the one that failed.
    timed = {one.configuration.key for group in groups for one in group}
    missing = {key: reason for key, reason in missing.items() if key not in timed}
    return Comparison(groups=tuple(groups), missing=missing, seconds=time.monotonic() - begin)


def _prepare_together(
    first: Configuration,
    others: Sequence[Configuration],
    prepare: Callable[[Configuration], PreparedRun],
    refusal: Callable[[Exception], str | None],
    free: Callable[[], None],
    missing: dict[str, str],
) -> tuple[dict[Configuration, PreparedRun], list[Configuration]]:
    """Prepare `first` and as many others as fit. Returns them and those left for later."""
    alive: dict[Configuration, PreparedRun] = {}
    left: list[Configuration] = []
    for configuration in (first, *others):
        reason, no_room = None, False
        try:
            alive[configuration] = prepare(configuration)
        except torch.OutOfMemoryError as error:
            reason, no_room = str(error).partition(". ")[0], True
        except (RuntimeError, ValueError, NotImplementedError) as error:
            reason = refusal(error)
            if reason is None:
                raise
        # Outside the handlers: a traceback holds the tensors of its frames.
        if reason is None:
            continue
        free()
        if no_room and len(alive) > 1:
            left.append(configuration)
            continue
        beside = f"no room beside {first.variant.key}: " if no_room and alive else ""
        missing[configuration.key] = beside + reason
        if not alive:
            return {}, list(others)
    return alive, left


def _timed(
    alive: Mapping[Configuration, PreparedRun],
    *,
    budget_s: float,
    rng: random.Random,
    monitor: SampleMonitor,
    cores: CoreSelector | None,
) -> tuple[Retimed, ...]:
    passes = [one_pass for one_pass, _ in alive.values()]
    budget_s *= len(alive)
    turns = take_turns(passes, budget_s=budget_s, rng=rng, monitor=monitor, cores=cores)
    return tuple(
        Retimed(
            configuration=configuration,
            gpu_ms=tuple(turn.gpu_ms for turn in taken if turn.gpu_ms is not None),
            host_ms=tuple(turn.host_ms for turn in taken),
            held=held(),
        )
        for (configuration, (_, held)), taken in zip(alive.items(), turns, strict=True)
    )


def prepare_run(
    configuration: Configuration, device: torch.device, seed: int, stream: HeldStream | None
) -> PreparedRun:
    """Build and warm a configuration on `device`; `stream` is None on CPU."""
    return prepare_built(Run(configuration, device, seed), stream)


def prepare_built(run: Run, stream: HeldStream | None) -> PreparedRun:
    """Warm a run that is built."""
    for _ in range(2):  # compilation and plans, and then what only the second visit settles
        run.restart()
        run_steps_cold(run, lambda results: None)
    layers = run.configuration.workload.layers
    if stream is None:
        return lambda: Turn(None, quantile_of(run_steps_warm(run), 0.5) * layers), lambda: None
    passes = HeldPasses(run, stream)
    last: dict[int, float] = {}  # of each step; one that is not held counts as the time before

    def one_pass() -> Turn:
        steps = passes.turn()
        for _ in range(HOLD_RETRIES):  # behind them the hold is given up, if none was held
            if not any(step.host_counts for step in steps):
                steps += passes.turn()
        last.update((step.index, step.gpu_ms) for step in for_gpu(steps))
        host_ms = quantile_of([step.host_ms for step in for_host(steps)], HOST_QUANTILE)
        return Turn(fmean(last.values()) * layers, host_ms * layers)

    one_pass()  # takes the room that moving needs, before another run is prepared
    return one_pass, lambda: passes.held
