"""Follows the trials of a study: whoever asks often need not look at all of them each time.

The finished trials at a study's beginning, up to the first one that is not, never change again.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState


class TrialCursor:
    """Hands out each settled trial once, and all others every time."""

    def __init__(self) -> None:
        """Start before the first trial."""
        self._count = 0

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
    """How far a study is."""

    finished: int  # told; abandoned trials are not
    running: tuple[FrozenTrial, ...]


class TrialCounter:
    """Counts a study's trials."""

    def __init__(self, study: optuna.Study) -> None:
        """Start at nothing."""
        self._study, self._settled, self._finished = study, TrialCursor(), 0
        self._threads = threading.Lock()

    def read(self) -> TrialCount:
        """Return what there is now."""
        with self._threads:
            settled, others = self._settled.read(self._study)
            self._finished += sum(map(_was_told, settled))
            running = tuple(trial for trial in others if trial.state is TrialState.RUNNING)
            return TrialCount(self._finished + sum(map(_was_told, others)), running)


def _was_told(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
