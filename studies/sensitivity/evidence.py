"""What a study knows about the possible configurations of its space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import TrialState

from objectives.schema.evaluation import Evaluation, Outcome
from studies.numerics.arrays import Matrix
from studies.samplers.goldilocks import GoldilocksSampler
from studies.samplers.observations import Observations
from studies.space.catalogue import Catalogue, catalogue_of, expected
from studies.space.probes import probed
from studies.space.space import survey
from studies.study.baseline import default_of
from studies.study.plan import environment_of, plan_of
from studies.study.snapshot import Snapshot
from variants.axes import Choice
from variants.configuration import Configuration, default_variant
from variants.workload import Workload


@dataclass(frozen=True)
class Evidence:
    """Everything that can be measured, and what was."""

    catalogue: Catalogue
    configurations: tuple[Configuration, ...]  # as the catalogue's rows
    workloads: tuple[Workload, ...]  # by the catalogue's numbers
    prior: Matrix | None  # (n, 2): the roofline's log10 MiB and log10 ms
    observations: Observations
    numbers: Mapping[int, int]  # trial numbers by configuration
    defaults: Mapping[int, tuple[float, float]]  # log10 numbers by workload, where usable
    references: Mapping[str, Choice]  # the choice that others of its axis are compared with
    capacity_mib: float  # of the device: what needs more runs out of memory
    seed: int

    @cached_property
    def probes(self) -> NDArray[np.int64]:
        """The configurations that were tried and are an honest sample of all."""
        return probed(self.catalogue.sizes, self.seed, self.observations.tried)


def read_evidence(study: optuna.Study, *, prior: bool) -> Evidence:
    """Read a study; `prior` says whether the roofline's expectations count.

    Raises:
        StudyError: It was written by an incompatible version.
    """
    held = Snapshot.of(study)
    plan, device = plan_of(held), environment_of(held).device
    found = survey(plan.space, device)
    catalogue = catalogue_of(found)
    configurations = tuple(found.configurations())
    roofline = expected(configurations, device) if prior else None
    defaults = {}
    for number, workload in enumerate(found.workloads):
        default = default_of(held, workload)
        numbered = None if default is None else log_numbers(default)
        if default is not None and numbered and default.outcome is Outcome.MEASURED:
            defaults[number] = numbered
    usual = default_variant(found.workloads[0], device).model_dump(exclude_none=True)
    return Evidence(
        catalogue,
        configurations,
        found.workloads,
        roofline,
        GoldilocksSampler(catalogue, roofline, plan.seed).observations(study),
        _trial_numbers(study, catalogue),
        defaults,
        references_of(catalogue, usual),
        device.memory_bytes / 2**20,
        plan.seed,
    )


def references_of(catalogue: Catalogue, usual: Mapping[str, Choice]) -> dict[str, Choice]:
    """Return for each axis the usual choice; where it is not searched, the least or the first."""
    found: dict[str, Choice] = {}
    for name, choices in catalogue.choices.items():
        numbers = [choice for choice in choices if isinstance(choice, int)]
        first = min(numbers) if numbers else choices[0]
        found[name] = usual[name] if usual.get(name) in choices else first
    return found


def _trial_numbers(study: optuna.Study, catalogue: Catalogue) -> dict[int, int]:
    found = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        index = catalogue.find(trial.params)
        if index is not None:
            found[index] = trial.number
    return found


def log_numbers(evaluation: Evaluation) -> tuple[float, float] | None:
    """Return log10 MiB and log10 ms, if they were measured."""
    memory, latency = evaluation.peak_memory_mib, evaluation.latency_ms
    if not memory or not latency:
        return None
    return math.log10(memory), math.log10(latency)
