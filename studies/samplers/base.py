"""The base of this product's samplers: all parameters of a trial are proposed together.

What a device cannot run is not in the catalogue, and what was tried is not proposed again: both
act inside the sampler, so that no rejected trial is ever stored.
"""

from __future__ import annotations

import itertools
import math
import threading
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from objectives.schema.evaluation import LEAST, MOST
from studies.samplers.observations import Observations
from studies.space.catalogue import Catalogue
from studies.space.probes import probe_order
from studies.space.space import SpaceExhausted
from studies.storage.optuna_internals import FIXED_PARAMS, stored_user_attributes
from studies.study.attributes import LATENCY, MEMORY, PROBES
from studies.study.counter import TrialCursor

# Of a trial: its configuration, log10 memory and latency, and whether it failed.
_Found = tuple[int, tuple[float, float] | None, bool]


class CatalogueSampler(BaseSampler):
    """An Optuna sampler that proposes configurations of a catalogue, all parameters at once.

    Parameters that are not the catalogue's are drawn at random, as Optuna's samplers do.
    """

    def __init__(self, catalogue: Catalogue, seed: int) -> None:
        self.catalogue, self.seed = catalogue, seed
        self.probe_order: NDArray[np.int64] = probe_order(catalogue.sizes, seed)
        self.distributions: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(choices) for name, choices in catalogue.choices.items()
        }
        self._elsewhere = optuna.samplers.RandomSampler(seed)
        self._read: dict[int, _Found | None] = {}  # by number, of trials that are not settled
        # Of running trials by number: how many parameters they had, and which one they are.
        self._running: dict[int, tuple[int, int | None]] = {}
        self._cursor, self._of_settled = TrialCursor(), Observations({}, frozenset())
        self._threads = threading.Lock()

    @abstractmethod
    def choose(self, study: optuna.Study, trial: FrozenTrial, observations: Observations) -> int:
        """Return the next configuration; at least one is untried."""

    def propose_ahead(self, study: optuna.Study) -> None:
        """Prepare the next proposal from what is known now, if that takes long.

        It is kept for who asks next, unless others have asked meanwhile. Of what is running now,
        the proposal knows the predicted values. May be called from any thread.
        """

    def probes_due(self, observations: Observations) -> int:
        """Return how many configurations of the probe order should have been tried by now."""
        return 0

    def likely(self, study: optuna.Study, count: int) -> list[int]:
        """Return up to so many configurations that may be proposed next, the likeliest first.

        For whoever prepares for them; what is proposed does not depend on it.
        """
        observations = self.observations(study)
        first = self._due(study, observations).tolist()
        untried = (
            index
            for index in (*first, *self.forecast(observations))
            if index not in observations.tried
        )
        return list(itertools.islice(dict.fromkeys(untried), count))

    def forecast(self, observations: Observations) -> Iterable[int]:
        """Return what `choose` may return next, the likeliest first, tried or not."""
        return ()

    def _due(self, study: optuna.Study, observations: Observations) -> NDArray[np.int64]:
        """Return the beginning of the probe order that should have been tried by now."""
        stored = stored_user_attributes(study)
        return self.probe_order[: max(self.probes_due(observations), stored.get(PROBES, 0))]

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return all axes that vary."""
        return self.distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of the next configuration.

        Raises:
            SpaceExhausted: There is none left.
        """
        if not search_space.keys() >= self.distributions.keys() or not len(self.catalogue):
            return {}  # somebody else's space
        if FIXED_PARAMS in trial.system_attrs:
            return {k: v for k, v in trial.system_attrs[FIXED_PARAMS].items() if k in search_space}
        observations = self.observations(study, but=trial.number)
        if len(observations.tried) == len(self.catalogue):
            raise SpaceExhausted
        due = self._due(study, observations)
        missing = np.flatnonzero(~np.isin(due, observations.indexes))
        if len(missing):
            return dict(self.catalogue.params(int(due[missing[0]])))
        return dict(self.catalogue.params(self.choose(study, trial, observations)))

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw a parameter that is none of the catalogue's."""
        return self._elsewhere.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Reseed what Optuna reseeds in each of several threads; proposals have no such state."""
        self._elsewhere.reseed_rng()

    def observations(self, study: optuna.Study, *, but: int = -1) -> Observations:
        """Return what all trials showed, but the abandoned ones and the one numbered `but`."""
        with self._threads:
            settled, others = self._cursor.read(study)
            if settled:
                self._of_settled = self._with(self._of_settled, settled)
                for trial in settled:
                    self._read.pop(trial.number, None)
            return self._with(self._of_settled, [one for one in others if one.number != but])

    def _with(self, observations: Observations, trials: Sequence[FrozenTrial]) -> Observations:
        """Return the observations with those of some more trials."""
        values, failed, running = dict(observations.values), set(observations.failed), set()
        for trial in trials:
            if trial.state == TrialState.FAIL:
                continue
            if not trial.state.is_finished():
                index = self._find_running(trial) if self._is_named(trial) else None
                if index is not None:
                    running.add(index)
                continue
            if trial.number not in self._read:
                self._running.pop(trial.number, None)
                index = self.catalogue.find(trial.params)
                self._read[trial.number] = None if index is None else (index, *_numbers(trial))
            found = self._read[trial.number]
            if found is None:
                continue
            index, numbers, lost = found
            if numbers is not None:
                values[index] = numbers
            if lost:
                failed.add(index)
        return Observations(values, frozenset(failed), frozenset(running))

    def _find_running(self, trial: FrozenTrial) -> int | None:
        # Asked elsewhere at this moment, it gets its parameters one by one.
        count = len(trial.params)
        known, index = self._running.get(trial.number, (-1, None))
        if known != count:
            index = self.catalogue.find(trial.params)
            self._running[trial.number] = count, index
        return index

    def _is_named(self, trial: FrozenTrial) -> bool:
        # Asked in another process this very moment, a trial has no parameters yet.
        return bool(trial.params) or not self.catalogue.choices


def _is_measured(value: object) -> bool:
    """Tell whether it is a number that can be one of a measurement: anybody may write one."""
    return isinstance(value, int | float) and LEAST <= value <= MOST


def _numbers(trial: FrozenTrial) -> tuple[tuple[float, float] | None, bool]:
    """Return log10 memory and log10 latency if they are known, and whether it failed.

    Of a trial without measurements, what is known of it.
    """
    attrs = trial.user_attrs
    pair = (attrs[MEMORY], attrs[LATENCY]) if LATENCY in attrs else trial.values
    failed = trial.state is not TrialState.COMPLETE
    if pair is None or len(pair) != 2 or not all(_is_measured(one) for one in pair):
        return None, True
    return (math.log10(pair[0]), math.log10(pair[1])), failed
