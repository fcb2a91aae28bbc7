"""One run of a study: defaults first, then trials until the budget is spent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import optuna

from objectives.bench import Bench
from objectives.evaluation import Evaluation
from objectives.roofline import Peaks, under_roofline
from studies.anchor import EVERY, AnchorPoint, add_anchor, anchor_configuration
from studies.catalogue import catalogue_of, expected
from studies.finalists import Finals, judge
from studies.front import WorkloadResult, finalists
from studies.joint import PROBES
from studies.probes import probed
from studies.samplers import make_sampler
from studies.space import Survey
from studies.study import (
    Plan,
    abandon,
    ask,
    default_of,
    environments_of,
    has_peaks,
    objective_unit,
    peaks_of_study,
    recover,
    set_default,
    set_finals,
    set_peaks,
    tell,
    told,
)
from studies.surrogate_sampler import EXPECTED_GAIN
from variants.axes import Choice
from variants.configuration import Configuration, default_variant
from variants.workload import Workload


@dataclass
class Session:
    """Measures the configurations of a study one after another.

    A caller drives it: `workloads_without_default` and `measure_default`, then `trial` while
    `remaining` is positive.
    """

    study: optuna.Study
    plan: Plan
    survey: Survey
    bench: Bench
    seconds: dict[str, float] = field(default_factory=dict)  # where this run's time went
    abandoned: int = 0
    _defaults: dict[str, Evaluation] = field(default_factory=dict)  # by workload key
    _since_anchor: int | None = None  # trials since the anchor was measured in this run
    _peaks: list[Peaks | None] = field(default_factory=list)  # one, once it is known

    def __post_init__(self) -> None:
        """Settle what a dead run left behind, and install the sampler."""
        self.abandoned = recover(self.study)
        self._device = self.bench.device()
        self._environment = len(environments_of(self.study))
        for workload in self.survey.workloads:
            default = default_of(self.study, workload)
            if default is not None:
                self._defaults[workload.key] = default
        self._sampler = self.study.sampler = make_sampler(
            self.plan.sampler,
            catalogue_of(self.survey),
            partial(expected, self.survey.configurations(), self._device),
            self.plan.seed,
        )

    def tried(self) -> int:
        """Return how many unique configurations the study has told."""
        return sum(1 for _ in told(self.study))

    def budget(self, trials: int) -> int:
        """Return how many trials can be had of `trials`: the space may be smaller."""
        return min(trials, self.survey.size)

    def add_probes(self, count: int) -> int:
        """Have so many more configurations of the probe order tried before anything else.

        Returns how many trials that takes: some may have been tried already.
        """
        sizes, seed = self._sampler.catalogue.sizes, self.plan.seed
        tried = self._sampler.told(self.study).tried
        wanted = len(probed(sizes, seed, tried)) + count
        self.study.set_user_attr(PROBES, wanted)
        order = self._sampler.probe_order[:wanted].tolist()
        return sum(index not in tried for index in order)

    def expected_gains(self) -> list[float]:
        """Return what the surrogate expected of the trials that it chose, in order."""
        return [
            trial.system_attrs[EXPECTED_GAIN]
            for trial in self.study.get_trials(deepcopy=False)
            if EXPECTED_GAIN in trial.system_attrs
        ]

    def coverage(self) -> dict[str, dict[Choice, tuple[int, int]]]:
        """Return how many configurations of each choice were tried, and are possible."""
        catalogue = self._sampler.catalogue
        tried = np.array(sorted(self._sampler.told(self.study).tried), dtype=np.int64)
        found: dict[str, dict[Choice, tuple[int, int]]] = {}
        for column, (name, choices) in enumerate(catalogue.choices.items()):
            all_of = np.bincount(catalogue.codes[:, column], minlength=len(choices) + 1)
            of_tried = np.bincount(catalogue.codes[tried, column], minlength=len(choices) + 1)
            found[name] = {
                choice: (int(of_tried[code]), int(all_of[code]))
                for code, choice in enumerate(choices, 1)
                if all_of[code]
            }
        return found

    def workloads_without_default(self) -> Iterator[Workload]:
        """Yield the workloads whose default is still to be measured."""
        for workload in self.survey.workloads:
            if workload.key not in self._defaults:
                yield workload

    def measure_default(self, workload: Workload) -> Evaluation:
        """Measure and store what PyTorch does with `workload` by default."""
        variant = default_variant(workload, self._device)
        evaluation = self._evaluate(Configuration(workload=workload, variant=variant))
        set_default(self.study, evaluation)
        self._defaults[workload.key] = evaluation
        return evaluation

    def trial(self) -> Evaluation:
        """Ask, measure and tell one trial. An interrupt abandons it and is passed on.

        Raises:
            SpaceExhausted: `budget` was spent before.
        """
        before = time.monotonic()
        trial = ask(self.study, self._environment)
        configuration = self.plan.space.configuration(trial.params)
        self._add("search", time.monotonic() - before)
        try:
            evaluation = self._evaluate(configuration)
        except BaseException:
            abandon(self.study, trial, "interrupted")
            raise
        before = time.monotonic()
        default = self._defaults[configuration.workload.key]
        unit = objective_unit(self.plan, default, self._device)
        tell(self.study, trial, evaluation, unit)
        self._add("storage", time.monotonic() - before)
        if self._since_anchor is not None:
            self._since_anchor += 1
        return evaluation

    def compare_finalists(self, result: WorkloadResult) -> Finals | None:
        """Time a workload's finalists again, in turns, and store the verdicts.

        None where there is nothing to compare.
        """
        chosen = finalists(result)
        if not chosen:
            return None
        comparison = self.bench.compare([each.configuration for each in chosen])
        finals = judge(
            comparison,
            reference=chosen[0].configuration.variant.key,
            after_trial=max(
                (c.number for c in result.measured if c.number is not None), default=-1
            ),
        )
        set_finals(self.study, result.workload, finals)
        self._add("finalists", comparison.seconds)
        return finals

    def anchor(self, *, last: bool = False) -> AnchorPoint | None:
        """Measure the anchor where it is due: at first, every so often, and at last."""
        due = self._since_anchor is None or self._since_anchor >= (1 if last else EVERY)
        if not due:
            return None
        next_number = len(self.study.get_trials(deepcopy=False))
        evaluation = self.bench.evaluate(anchor_configuration(self._device))
        self._since_anchor = 0
        self._add("anchor", sum(evaluation.seconds.values()))
        return add_anchor(self.study, evaluation, next_number)

    def _evaluate(self, configuration: Configuration) -> Evaluation:
        evaluation = self.bench.evaluate(configuration)
        for stage, spent in evaluation.seconds.items():
            self._add(stage, spent)
        return under_roofline(evaluation, self._device, self._measured_peaks())

    def _measured_peaks(self) -> Peaks | None:
        """Return the study's rates, measured when they are first needed."""
        if not self._peaks:
            if not has_peaks(self.study):
                before = time.monotonic()
                set_peaks(self.study, self.bench.peaks())
                self._add("roofline", time.monotonic() - before)
            self._peaks.append(peaks_of_study(self.study))
        return self._peaks[0]

    def _add(self, stage: str, spent: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + spent
