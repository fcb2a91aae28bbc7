"""The `goldilocks` sampler: workload and variant are chosen together, by what both have shown."""

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
from studies.samplers.acquisition import Candidates, Proposal, Proposer
from studies.samplers.base import JointSampler
from studies.samplers.observations import Told
from studies.space.catalogue import Catalogue
from studies.storage.optuna_internals import set_system_attribute
from studies.study.attributes import EXPECTED_GAIN

# Trials of which one is a probe, once every workload has been served: what the others found is
# judged by them, and they find what the surrogate would never look at.
PROBE_EVERY = 8


class SurrogateSampler(JointSampler):
    """Proposes the configuration with the largest expected gain among all that are possible."""

    def __init__(self, catalogue: Catalogue, prior: Matrix | None, seed: int) -> None:
        """Take what is expected of each configuration, `(n, 2)`; None for no prior."""
        super().__init__(catalogue, seed)
        self.proposer = Proposer(candidates_of(catalogue, prior), seed)
        self._proposing = threading.Lock()
        # The last proposal, and all that it passed over because it was tried or running.
        self._proposed: tuple[frozenset[int], Proposal | None] = frozenset(), None

    def probes_due(self, told: Told) -> int:
        """Return one for every so many trials, after as many as there are workloads."""
        return max(0, (len(told.tried) - len(self.catalogue.sizes)) // PROBE_EVERY)

    def choose(self, study: optuna.Study, trial: FrozenTrial, told: Told) -> int:
        """Return the best, and note what was expected of it."""
        proposal = self._propose(told)
        assert proposal is not None
        set_system_attribute(study, trial, EXPECTED_GAIN, proposal.expected_gain)
        return proposal.index

    def think_ahead(self, study: optuna.Study) -> None:
        """Propose, and keep it."""
        told = self.told(study)
        if len(told.tried) < len(self.catalogue):
            self._propose(told)

    def _propose(self, told: Told) -> Proposal | None:
        """Return the last proposal if it knew of everything that is tried or running now."""
        with self._proposing:
            known, proposal = self._proposed
            if proposal is None or not told.tried <= known:
                proposal = self.proposer.propose(told)
                self._proposed = told.tried, proposal
            return proposal

    def forecast(self, told: Told) -> Iterable[int]:
        """Return the ranking behind the last proposal, and the next probe.

        A ranking for this alone would take as long as a proposal. The probe stands second: of so
        many trials one is one, and it is known for sure.
        """
        ranked = self.proposer.ranked
        probes = (int(i) for i in self.probe_order if int(i) not in told.tried)
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
