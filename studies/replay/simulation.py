"""Searches by many workers at once in virtual time: what would more GPUs buy?

A discrete-event simulation: trials take as long as a table says, on a clock that only this search
knows. Workers ask one after another, as the study lock has them do. As in a session of several
workers, the next proposal is made once a trial is claimed, of what was told by then and all that
is running, and takes the time that it really takes here: where that is longer than a trial divided
by the workers, workers wait for each other.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from optuna.trial import Trial

from objectives.schema.evaluation import Evaluation
from studies.replay.durations import Durations
from studies.replay.replay import study_of
from studies.replay.table import RecordedTable
from studies.samplers.base import CatalogueSampler
from studies.study.baseline import WorkloadBaseline
from studies.study.trials import ask, tell
from variants.device import Device

# Not time on the wall, which whatever else the machine does would make longer, and which is the
# same where it does nothing else.
_CLOCK = time.thread_time
ASKS = (
    "one at a time, each as long as it took here, with the proposal that is made meanwhile "
    "(processor time, with the study in memory)"
)


@dataclass(frozen=True, slots=True)
class SimulatedTrial:
    """A trial that was told, in seconds since the search began."""

    evaluation: Evaluation
    asked: float  # when its worker got the lock
    begun: float  # when it was proposed, and measuring began
    freed: float  # when the next worker could ask
    ended: float  # when it was told


@dataclass(order=True, frozen=True, slots=True)
class _Running:
    ended: float
    number: int  # of the trial: who ends at the same time is told in this order
    trial: Trial
    index: int
    asked: float
    begun: float
    freed: float


def replay_in_virtual_time(
    table: RecordedTable,
    durations: Durations,
    sampler: str,
    seed: int,
    workers: int,
    trials: int,
    device: Device | None,
    clock: Callable[[], float] = _CLOCK,
) -> Iterator[SimulatedTrial]:
    """Have workers search the table; yields trials in the order in which they are told.

    Args:
        table: What measuring says.
        durations: How long it takes.
        sampler: One of `studies.samplers.samplers.SAMPLERS`.
        seed: Of the sampler.
        workers: How many measure at once.
        trials: Of all workers, at most; the table may hold fewer.
        device: That of the prior; None for no prior.
        clock: Read before and after each ask; with a made-up one, the seed decides everything.
    """
    study = study_of(table, sampler, seed, device)
    assert isinstance(study.sampler, CatalogueSampler)
    left = min(trials, len(table.catalogue))
    idle = deque([0.0] * min(workers, left))  # since when, rising
    running: list[_Running] = []  # a heap
    lock_free = 0.0  # and the next proposal is there

    def tell_next() -> SimulatedTrial:
        done = heapq.heappop(running)
        evaluation = table.evaluations[done.index]
        tell(study, done.trial, evaluation, WorkloadBaseline(1.0, 1.0, True))
        idle.append(done.ended)
        return SimulatedTrial(evaluation, done.asked, done.begun, done.freed, done.ended)

    while left:
        if not idle:
            yield tell_next()
        now = max(lock_free, idle[0])
        while running and running[0].ended <= now:
            yield tell_next()
        idle.popleft()
        before = clock()
        trial = ask(study)
        begun = now + clock() - before
        index = table.catalogue.find(trial.params)
        assert index is not None
        ended = begun + float(durations.seconds[index])
        lock_free = begun
        if workers > 1:
            before = clock()
            study.sampler.propose_ahead(study)
            lock_free += clock() - before
        done = _Running(ended, trial.number, trial, index, now, begun, lock_free)
        heapq.heappush(running, done)
        left -= 1
    while running:
        yield tell_next()
