"""Proposes configurations: workload assignment, declared support and de-duplication, jointly.

Optuna's stock samplers choose variant axes only. Which workload comes next is not theirs to
say, since every one has to be served: the least-tried one does, ties broken at random. What a
device cannot run and what was tried already is rejected here, inside the sampler, so that no
rejected trial is ever stored.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from studies.joint import JointSampler
from studies.space import SpaceExhausted, Survey, trial_params
from variants.axes import AXES, Choice
from variants.configuration import inactive_axes
from variants.variant import Variant
from variants.workload import Workload

# Proposals of the stock sampler that may fall on something impossible or tried, before one of
# the remaining variants is drawn at random.
ATTEMPTS = 16
ANY_CACHE = "concat"  # one that is read, for axes that only such a cache has


def _tpe(seed: int) -> BaseSampler:
    return optuna.samplers.TPESampler(multivariate=True, seed=seed)


def _nsga2(seed: int) -> BaseSampler:
    return optuna.samplers.NSGAIISampler(population_size=30, seed=seed)


# A new sampler is made for every proposal, seeded by its place in the study: what is proposed
# depends on the seed and on what was told, not on how often the run was interrupted.
STOCK: Mapping[str, Callable[[int], BaseSampler] | None] = {
    "tpe": _tpe,
    "nsga2": _nsga2,
    "random": None,
}


class ConfigurationSampler(JointSampler):
    """Draws the next untried configuration of a survey."""

    def __init__(self, survey: Survey, sampler: str, seed: int) -> None:
        """Name the stock sampler that chooses variants, one of `STOCK`."""
        super().__init__(survey)
        self._make, self._seed = STOCK[sampler], seed
        self._variants = {
            key: {variant.key: variant for variant in variants}
            for key, variants in survey.possible.items()
        }
        self._keys: dict[int, tuple[str, str]] = {}  # of trials by number
        # The told trials, in memory: a stock sampler is asked several times for one proposal and
        # reads and writes its study each time, which a database answers a hundred times slower.
        self._told = optuna.create_study(
            directions=["minimize", "minimize"], storage=optuna.storages.InMemoryStorage()
        )
        self._copied: set[int] = set()

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of the next configuration.

        Raises:
            SpaceExhausted: There is none left.
        """
        tried = self._tried(study, trial.number)
        index = len(tried)
        rng = random.Random(_seed_of(self._seed, index, 0))
        workload, untried = self._next_workload(tried, rng)
        variant = self._propose(study, trial, workload, untried, index)
        if variant is None:
            variant = rng.choice(untried)
        return trial_params(self._survey.space, workload, variant)

    def _copy_told(self, study: optuna.Study) -> None:
        searched = self._survey.space.searched
        for trial in study.get_trials(
            deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)
        ):
            if trial.number not in self._copied:
                self._copied.add(trial.number)
                # Stock samplers pass over trials that lack a parameter: an axis that was inactive
                # gets its first choice.
                missing = {n: c[0] for n, c in searched.items() if n not in trial.params}
                self._told.add_trial(
                    optuna.trial.create_trial(
                        state=trial.state,
                        params=trial.params | missing,
                        distributions=self._distributions,
                        values=trial.values,
                        system_attrs=trial.system_attrs,
                    )
                )

    def _tried(self, study: optuna.Study, current: int) -> set[tuple[str, str]]:
        """Return (workload key, variant key) of all trials but the abandoned ones."""
        tried = set()
        for trial in study.get_trials(deepcopy=False):
            if trial.number == current or trial.state == TrialState.FAIL:
                continue
            if trial.number not in self._keys:
                searched = self._survey.space.searched
                if not trial.params and searched:
                    continue  # asked in another process this very moment
                found = self._survey.space.configuration(trial.params)
                self._keys[trial.number] = (found.workload.key, found.variant.key)
            tried.add(self._keys[trial.number])
        return tried

    def _next_workload(
        self, tried: set[tuple[str, str]], rng: random.Random
    ) -> tuple[Workload, Sequence[Variant]]:
        counts = Counter(workload for workload, _ in tried)
        open_workloads = []
        for workload in self._survey.workloads:
            untried = [
                variant
                for key, variant in self._variants[workload.key].items()
                if (workload.key, key) not in tried
            ]
            if untried:
                open_workloads.append((workload, untried))
        if not open_workloads:
            raise SpaceExhausted
        least = min(counts[workload.key] for workload, _ in open_workloads)
        return rng.choice([pair for pair in open_workloads if counts[pair[0].key] == least])

    def _propose(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        workload: Workload,
        untried: Sequence[Variant],
        index: int,
    ) -> Variant | None:
        """Ask the stock sampler until it names an untried variant, a limited number of times."""
        space = {
            name: distribution
            for name, distribution in self._distributions.items()
            if AXES[name].of_variant and name not in inactive_axes(workload, ANY_CACHE)
        }
        if self._make is None or not space or len(untried) == 1:
            return None
        self._copy_told(study)
        wanted = {variant.key: variant for variant in untried}
        for attempt in range(1, ATTEMPTS + 1):
            stock = self._make(_seed_of(self._seed, index, attempt))
            # A trial of the copy, failed at once: stock samplers ignore failed trials.
            asked = self._told.ask()
            current = self._told.get_trials(deepcopy=False)[asked.number]
            params = stock.sample_relative(self._told, current, space)
            self._told.tell(asked, state=TrialState.FAIL)
            # Read again: what the sampler noted is not in the trial that it was given.
            current = self._told.get_trials(deepcopy=False)[asked.number]
            if len(params) < len(space):
                # It wants a start at random, and to know later that this was one.
                self._keep_bookkeeping(study, trial, current)
                return None
            proposed = self._survey.space.configuration({**_context(workload), **params})
            if proposed.variant.key in wanted:
                self._keep_bookkeeping(study, trial, current)
                return wanted[proposed.variant.key]
        return None

    def _keep_bookkeeping(
        self, study: optuna.Study, trial: FrozenTrial, current: FrozenTrial
    ) -> None:
        """Store what the stock sampler noted of its trial (NSGA-II, its generation)."""
        for name, value in current.system_attrs.items():
            study._storage.set_trial_system_attr(trial._trial_id, name, value)


def _context(workload: Workload) -> dict[str, Choice]:
    return workload.model_dump(mode="json")


def _seed_of(*parts: int) -> int:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")
