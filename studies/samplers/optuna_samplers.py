"""Optuna's own samplers, as baselines: they choose variants, for workloads assigned in turn.

Which workload comes next is not theirs to say, since every one has to be served: the least-tried
one does, ties broken at random.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from studies.samplers.base import CatalogueSampler
from studies.samplers.observations import Observations
from studies.space.catalogue import Catalogue
from studies.storage.optuna_internals import set_system_attribute

# Proposals of Optuna's sampler that may fall on something impossible or tried, before one of
# the remaining variants is drawn at random.
ATTEMPTS = 16


def _tpe(seed: int) -> BaseSampler:
    return optuna.samplers.TPESampler(multivariate=True, seed=seed)


def _nsga2(seed: int) -> BaseSampler:
    return optuna.samplers.NSGAIISampler(population_size=30, seed=seed)


# Not GPSampler: with two objectives its proposals are slow, several of them may be impossible or
# tried, and they get slower with each trial.
# A new sampler is made for every proposal, seeded by its place in the study: what is proposed
# depends on the seed and on what was told, not on how often the run was interrupted.
OPTUNA_SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {"tpe": _tpe, "nsga2": _nsga2}


class OptunaSampler(CatalogueSampler):
    """Draws the next untried configuration of the least-tried workload."""

    def __init__(self, catalogue: Catalogue, sampler: str, seed: int) -> None:
        """`sampler` names the one of `OPTUNA_SAMPLERS` that chooses variants."""
        super().__init__(catalogue, seed)
        self._make = OPTUNA_SAMPLERS[sampler]
        # The finished trials, in memory: Optuna's sampler is asked several times for a proposal
        # and reads and writes its study each time, which a database answers far slower.
        self._copy = optuna.create_study(
            directions=["minimize", "minimize"], storage=optuna.storages.InMemoryStorage()
        )
        self._copied: set[int] = set()  # numbers of trials that are in it

    def choose(self, study: optuna.Study, trial: FrozenTrial, observations: Observations) -> int:
        """Return what Optuna's sampler proposes, or an untried variant at random."""
        tried = observations.tried
        rng = random.Random(_seed_of(self.seed, len(tried), 0))
        counts = Counter(int(self.catalogue.workloads[index]) for index in tried)
        sizes = self.catalogue.sizes
        open_ = [number for number in range(len(sizes)) if counts[number] < sizes[number]]
        least = min(counts[number] for number in open_)
        workload = rng.choice([number for number in open_ if counts[number] == least])
        untried = [i for i in self.catalogue.of_workload(workload) if i not in tried]
        found = self._propose(study, trial, untried, len(tried))
        return rng.choice(untried) if found is None else found

    def _copy_finished(self, study: optuna.Study) -> None:
        for trial in study.get_trials(
            deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)
        ):
            if trial.number not in self._copied:
                self._copied.add(trial.number)
                if self.catalogue.find(trial.params) is None or len(trial.values or (0, 0)) != 2:
                    continue  # somebody else's
                # Optuna's samplers pass over trials that lack a parameter: an axis that was
                # inactive gets its first choice.
                choices = self.catalogue.choices
                params = {n: trial.params.get(n, known[0]) for n, known in choices.items()}
                self._copy.add_trial(
                    optuna.trial.create_trial(
                        state=trial.state,
                        params=params,
                        distributions=self.distributions,
                        values=trial.values,
                        system_attrs=trial.system_attrs,
                    )
                )

    def _propose(
        self, study: optuna.Study, trial: FrozenTrial, untried: Sequence[int], index: int
    ) -> int | None:
        """Ask Optuna's sampler until it names an untried variant, a limited number of times."""
        context = self.catalogue.params(untried[0])
        named = {name for one in untried for name in self.catalogue.params(one)}
        space: dict[str, BaseDistribution] = {
            name: distribution
            for name, distribution in self.distributions.items()
            if name in self.catalogue.decided and name in named
        }
        if not space or len(untried) == 1:
            return None
        self._copy_finished(study)
        wanted = set(untried)
        for attempt in range(1, ATTEMPTS + 1):
            fresh = self._make(_seed_of(self.seed, index, attempt))
            # A trial of the copy, failed at once: Optuna's samplers ignore failed trials.
            asked = self._copy.ask()
            current = self._copy.get_trials(deepcopy=False)[asked.number]
            params = fresh.sample_relative(self._copy, current, space)
            self._copy.tell(asked, state=TrialState.FAIL)
            # Read again: what the sampler noted is not in the trial that it was given.
            current = self._copy.get_trials(deepcopy=False)[asked.number]
            if len(params) < len(space):
                # It wants a start at random, and to know later that this was one.
                self._keep_bookkeeping(study, trial, current)
                return None
            found = self.catalogue.find(context | params)
            if found in wanted:
                self._keep_bookkeeping(study, trial, current)
                return found
        return None

    def _keep_bookkeeping(
        self, study: optuna.Study, trial: FrozenTrial, current: FrozenTrial
    ) -> None:
        """Store what Optuna's sampler noted of its trial (NSGA-II, its generation)."""
        for name, value in current.system_attrs.items():
            set_system_attribute(study, trial, name, value)


def _seed_of(*parts: int) -> int:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")
