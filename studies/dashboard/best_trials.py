"""The dashboard's list of best trials, kept apart by workload.

optuna-dashboard makes one front of all trials of a study. Where a study serves several workloads
their values are shares of different defaults, and one workload's best would hide another's. It
has no setting for that, so the function that it calls is replaced, in this process alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.study import StudyDirection

from studies.storage.optuna_internals import best_trials_of_dashboard
from studies.study.attributes import EVALUATION
from variants.axes import AXES

_WORKLOAD_AXES = tuple(name for name, axis in AXES.items() if not axis.of_variant)
_NAME = "get_pareto_front_trials"  # of optuna-dashboard's function
_Front = Callable[..., list[optuna.trial.FrozenTrial]]


def separate_workloads() -> None:
    """Have this process's dashboard list each workload's own front, one after another."""
    module = best_trials_of_dashboard()
    found: Any = getattr(module, _NAME)
    if not isinstance(found, _FrontOfEach):
        setattr(module, _NAME, _FrontOfEach(found))


class _FrontOfEach:
    """The front of each workload's trials; of a study that is not ours, that of all."""

    def __init__(self, front: _Front) -> None:
        self._front = front

    def __call__(
        self, trials: Sequence[optuna.trial.FrozenTrial], directions: Sequence[StudyDirection]
    ) -> list[optuna.trial.FrozenTrial]:
        groups: dict[tuple[Any, ...], list[optuna.trial.FrozenTrial]] = {}
        for trial in trials:
            groups.setdefault(_workload(trial), []).append(trial)
        return [
            best
            for group in groups.values()
            for best in self._front(trials=group, directions=directions)
        ]


def _workload(trial: optuna.trial.FrozenTrial) -> tuple[Any, ...]:
    """Return what tells a trial's workload from the others of its study."""
    if EVALUATION not in trial.user_attrs:
        return ()
    return tuple(trial.params.get(name) for name in _WORKLOAD_AXES)
