"""The `goldilocks` sampler: workload and variant are chosen together, by what both have shown."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from objectives.evaluation import Outcome
from objectives.prior import predict
from studies.joint import JointSampler
from studies.proposer import Candidates, Proposer, Told
from studies.space import SpaceExhausted, Survey, trial_params
from studies.study import evaluation_of
from studies.surrogate import Axes
from variants.axes import AXES, Choice
from variants.configuration import Configuration
from variants.device import Device
from variants.variant import Variant
from variants.workload import Workload


class SurrogateSampler(JointSampler):
    """Proposes the configuration with the largest expected gain among all that are possible."""

    def __init__(self, survey: Survey, device: Device | None, seed: int) -> None:
        """Enumerate the candidates; `device` is the prior's, None for none."""
        super().__init__(survey)
        self._pairs: list[tuple[Workload, Variant]] = [
            (workload, variant)
            for workload in survey.workloads
            for variant in survey.possible[workload.key]
        ]
        self._index = {(w.key, v.key): i for i, (w, v) in enumerate(self._pairs)}
        self._proposer = Proposer(_candidates(survey, self._pairs, device), seed)
        self._told: dict[int, tuple[int, tuple[float, float] | None, bool]] = {}  # by number

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of the next configuration.

        Raises:
            SpaceExhausted: There is none left.
        """
        index = self._proposer.propose(self._read(study, trial.number))
        if index is None:
            raise SpaceExhausted
        return trial_params(self._survey.space, *self._pairs[index])

    def _read(self, study: optuna.Study, current: int) -> Told:
        """Return what all trials but the current and the abandoned ones say, by candidate."""
        values: dict[int, tuple[float, float]] = {}
        failed, running = set(), set()
        for trial in study.get_trials(deepcopy=False):
            if trial.number == current or trial.state == TrialState.FAIL:
                continue
            if trial.state in (TrialState.RUNNING, TrialState.WAITING):
                index = self._of(trial)
                if index is not None:
                    running.add(index)
                continue
            if trial.number not in self._told:
                index = self._of(trial)
                if index is None:
                    continue
                self._told[trial.number] = (index, *_numbers(trial))
            index, numbers, lost = self._told[trial.number]
            if numbers is not None:
                values[index] = numbers
            if lost:
                failed.add(index)
        return Told(values, frozenset(failed), frozenset(running))

    def _of(self, trial: FrozenTrial) -> int | None:
        """Return the candidate of a trial; None where it is none of this space, or unnamed yet."""
        if not trial.params and self._survey.space.searched:
            return None  # asked in another process this very moment
        found = self._survey.space.configuration(trial.params)
        return self._index.get((found.workload.key, found.variant.key))


def _numbers(trial: FrozenTrial) -> tuple[tuple[float, float] | None, bool]:
    """Return log10 memory and log10 latency if they were measured, and whether it failed."""
    evaluation = evaluation_of(trial)
    failed = evaluation.outcome is not Outcome.MEASURED
    memory, latency = evaluation.peak_memory_mib, evaluation.latency_ms
    if not memory or not latency:
        return None, failed
    return (math.log10(memory), math.log10(latency)), failed


def _candidates(
    survey: Survey, pairs: list[tuple[Workload, Variant]], device: Device | None
) -> Candidates:
    searched = survey.space.searched
    named = np.array([not AXES[name].numeric for name in searched], dtype=bool)
    codes = {name: {choice: i + 1 for i, choice in enumerate(c)} for name, c in searched.items()}
    number_of = {workload.key: i for i, workload in enumerate(survey.workloads)}
    points = np.empty((len(pairs), len(searched)))
    for row, (workload, variant) in enumerate(pairs):
        chosen: dict[str, Choice] = trial_params(survey.space, workload, variant)
        for column, name in enumerate(searched):
            value = chosen.get(name)
            if AXES[name].numeric:
                # An axis that means nothing here is as far from all of its choices.
                points[row, column] = 0.0 if value is None else math.log2(int(value))
            else:
                points[row, column] = 0 if value is None else codes[name][value]
    workloads: NDArray[np.int64] = np.array([number_of[w.key] for w, _ in pairs], dtype=np.int64)
    prior = None
    if device is not None:
        expected = [
            predict(Configuration(workload=workload, variant=variant), device)
            for workload, variant in pairs
        ]
        prior = np.log10([[p.memory_mib, p.latency_ms] for p in expected])
    return Candidates(points, Axes(named), workloads, prior)
