"""Optuna's parameter importances, as its dashboard shows them, beside what they answer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.importance import (
    BaseImportanceEvaluator,
    FanovaImportanceEvaluator,
    PedAnovaImportanceEvaluator,
)
from optuna.trial import FrozenTrial

from studies.numerics.arrays import evenly_spaced
from studies.sensitivity.analysis import LATENCY, MEMORY
from studies.sensitivity.evaluators import ANSWERS

LEAST_TRIALS = 20  # usable ones
MOST_TRIALS = 300  # an even part of more: fANOVA's time grows faster than their number
TREES = 16  # of fANOVA, whose time grows with them; with Optuna's 64 it is most of the answer's


@dataclass(frozen=True, slots=True)
class Importances:
    """One evaluator's answer, of the usable trials as they were chosen."""

    evaluator: str
    answers: str
    trials: int  # usable ones that it was given: all, or of very many an even part
    # Of what is told of memory and latency: ratios to the default where a study has several
    # workloads. An axis is missing where the evaluator cannot speak of it.
    of: Mapping[str, Mapping[str, float]]


def optuna_importances(study: optuna.Study, seed: int) -> tuple[Importances, ...]:
    """Return fANOVA and PED-ANOVA of log10 of both objectives; nothing of a few trials."""
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    done = [trial for trial in complete if _has_logarithms(trial)]
    if len(done) < LEAST_TRIALS:
        return ()
    if len(done) > MOST_TRIALS:
        done = [done[place] for place in evenly_spaced(len(done), MOST_TRIALS)]
    if len(done) < len(complete):
        study = _study_of(done)
    evaluators: dict[str, BaseImportanceEvaluator] = {
        "fANOVA": FanovaImportanceEvaluator(n_trees=TREES, seed=seed),
        "PED-ANOVA": PedAnovaImportanceEvaluator(),
    }
    found = []
    with warnings.catch_warnings():
        # Of each call with a target: that it must be minimised, which it is.
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", ExperimentalWarning)
        for name, evaluator in evaluators.items():
            of = {
                objective: optuna.importance.get_param_importances(
                    study, evaluator=evaluator, target=_Log(place)
                )
                for place, objective in enumerate((MEMORY, LATENCY))
                if len({trial.values[place] for trial in done}) > 1
            }
            found.append(Importances(name, ANSWERS[name], len(done), of))
    return tuple(found)


def _has_logarithms(trial: FrozenTrial) -> bool:
    """Tell whether it told two numbers above 0: anybody may add trials."""
    values = trial.values or ()
    return len(values) == 2 and all(0 < value < math.inf for value in values)


def _study_of(trials: Sequence[FrozenTrial]) -> optuna.Study:
    """Return a study in memory that holds these trials, without what only we read of them."""
    found = optuna.create_study(
        storage=optuna.storages.InMemoryStorage(), directions=["minimize", "minimize"]
    )
    found.add_trials(
        optuna.trial.create_trial(
            values=trial.values, params=trial.params, distributions=trial.distributions
        )
        for trial in trials
    )
    return found


@dataclass(frozen=True, slots=True)
class _Log:
    place: int

    def __call__(self, trial: FrozenTrial) -> float:
        return math.log10(trial.values[self.place])
