"""Reads the trials of a study again and again, without looking at all of them each time.

The finished trials at a study's beginning, up to the first one that is not, never change again.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState


class TrialCursor:
    """Hands out each settled trial once, and all others every time.

    Settled is a finished trial before which all trials are finished.
    """

    def __init__(self) -> None:
        self._count = 0  # of settled trials that were handed out

    def read(self, study: optuna.Study) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        """Return the trials that were settled since the last call, and those that are not."""
        trials = study.get_trials(deepcopy=False)
        begin = end = self._count
        # Dense, too: nothing can turn up between trials that are numbered without a gap.
        while end < len(trials) and trials[end].number == end and trials[end].state.is_finished():
            end += 1
        self._count = end
        return trials[begin:end], trials[end:]


@dataclass(frozen=True, slots=True)
class TrialCount:
    """How many trials of a study are finished, and which are running."""

    finished: int  # abandoned trials are not counted
    running: tuple[FrozenTrial, ...]


class TrialCounter:
    """Counts the finished trials of a study; may be asked by several threads."""

    def __init__(self, study: optuna.Study) -> None:
        self._study, self._cursor, self._finished = study, TrialCursor(), 0
        self._threads = threading.Lock()

    def read(self) -> TrialCount:
        """Return the present count."""
        with self._threads:
            settled, others = self._cursor.read(self._study)
            self._finished += sum(map(_counts, settled))
            running = tuple(trial for trial in others if trial.state is TrialState.RUNNING)
            return TrialCount(self._finished + sum(map(_counts, others)), running)


def _counts(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
