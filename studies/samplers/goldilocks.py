"""The `goldilocks` sampler: the largest expected hypervolume improvement over the catalogue."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterable

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from studies.numerics.arrays import Matrix
from studies.numerics.gp import Axes
from studies.samplers.acquisition import Candidates, HypervolumeAcquisition, Proposal
from studies.samplers.base import CatalogueSampler
from studies.samplers.observations import Observations
from studies.space.catalogue import Catalogue
from studies.storage.optuna_internals import set_system_attribute
from studies.study.attributes import EXPECTED_GAIN

# Trials of which one is a probe, once every workload has been served: what the others found is
# judged by them, and they find what the surrogate would never look at.
PROBE_EVERY = 8


class GoldilocksSampler(CatalogueSampler):
    """Proposes the possible configuration with the largest acquisition value, and some probes."""

    def __init__(self, catalogue: Catalogue, prior: Matrix | None, seed: int) -> None:
        """`prior`: log10 memory and latency expected of each configuration, `(n, 2)`, or None."""
        super().__init__(catalogue, seed)
        self.acquisition = HypervolumeAcquisition(candidates_of(catalogue, prior), seed)
        self._proposing = threading.Lock()
        # The last proposal, and all that it passed over because it was tried or running.
        self._proposed: tuple[frozenset[int], Proposal | None] = frozenset(), None

    def probes_due(self, observations: Observations) -> int:
        """Return one of `PROBE_EVERY` trials, not counting the first of each workload."""
        return max(0, (len(observations.tried) - len(self.catalogue.sizes)) // PROBE_EVERY)

    def choose(self, study: optuna.Study, trial: FrozenTrial, observations: Observations) -> int:
        """Return the best candidate, and store with the trial what was expected of it."""
        proposal = self._propose(observations)
        assert proposal is not None
        set_system_attribute(study, trial, EXPECTED_GAIN, proposal.expected_gain)
        return proposal.index

    def propose_ahead(self, study: optuna.Study) -> None:
        """Make the next proposal and keep it for `choose`."""
        observations = self.observations(study)
        if len(observations.tried) < len(self.catalogue):
            self._propose(observations)

    def _propose(self, observations: Observations) -> Proposal | None:
        """Return the last proposal if it knew of everything that is tried or running now."""
        with self._proposing:
            known, proposal = self._proposed
            if proposal is None or not observations.tried <= known:
                proposal = self.acquisition.propose(observations)
                self._proposed = observations.tried, proposal
            return proposal

    def forecast(self, observations: Observations) -> Iterable[int]:
        """Return the ranking behind the last proposal, and the next probe.

        A ranking for this alone would take as long as a proposal. The probe stands second: of so
        many trials one is one, and it is known for sure.
        """
        ranked = self.acquisition.ranked
        probes = (int(i) for i in self.probe_order if int(i) not in observations.tried)
        return [*ranked[:1], *itertools.islice(probes, 1), *ranked[1:]]


def candidates_of(catalogue: Catalogue, prior: Matrix | None) -> Candidates:
    """Return the candidates of a catalogue.

    With a prior, the expected latency is a coordinate too: configurations that are bound by their
    launches resemble each other, whatever their shapes.
    """
    points, named = catalogue.points, catalogue.named
    if prior is not None:
        points = np.column_stack([points, prior[:, 1] / math.log10(2)])  # octaves, as all numbers
        named = [*named, False]
    return Candidates(points, Axes.of(points, named), catalogue.workloads, prior)
