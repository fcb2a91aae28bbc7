"""One run of a study: trials until the budget is spent, beside other runs of the same study."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState

from objectives.schema.evaluation import Evaluation
from objectives.trial.bench import Bench
from studies.samplers.samplers import make_sampler
from studies.session.baseline_measurement import BaselineMeasurement
from studies.session.calibration import Calibration
from studies.session.estimate import TrialPace
from studies.session.measurer import Measurer
from studies.session.retiming import FinalistRetiming
from studies.session.worker_pool import Worker
from studies.space.catalogue import catalogue_of, expected
from studies.space.probes import probed
from studies.space.space import SpaceExhausted, Survey
from studies.storage import heartbeat
from studies.storage.database import GRACE_PERIOD_S, STORAGE_FAILURES, retry_on_disconnect
from studies.storage.lock import LockLostError, StudyLock
from studies.storage.optuna_internals import stored_state
from studies.study.attributes import EXPECTED_GAIN, PROBES, StudyError
from studies.study.baseline import objective_baseline
from studies.study.counter import TrialCounter
from studies.study.plan import Plan, environments_of, number_of
from studies.study.trials import (
    FinishedTrial,
    abandon,
    ask,
    finished_trials,
    recover,
    tell,
)
from variants.axes import Choice
from variants.configuration import Configuration

LIKELY = 16  # configurations that whoever compiles ahead is told of
POLL_S = 0.5  # between looks at what others measure, once nothing else is left
PAUSED = "its process was paused while it asked"  # why a trial was abandoned


class NothingToClaimError(Exception):
    """All that is left to measure is being measured by others, who may yet fail to."""


class TrialLostError(Exception):
    """A trial was given up by others, who took its process for dead; what it found is dropped."""


class Session:
    """Measures the configurations of a study, beside other sessions of the same study.

    A caller drives it: `calibration.begin` for each worker, `baselines.measure_missing`, then
    `trial` until it raises, and `retiming.measure` for each workload that is due. Each of these
    takes a worker, the first one if none is named, and several may be at work in threads.
    """

    def __init__(
        self,
        study: optuna.Study,
        plan: Plan,
        survey: Survey,
        bench: Bench,
        name: str = "device",
        *,
        joined: bool = False,
        take_over: bool = False,
    ) -> None:
        """Settle what a dead run left behind, and install the sampler.

        Args:
            study: Created or resumed by `opening.open_study`.
            plan: Its plan.
            survey: What of its space can be measured on the device.
            bench: Of the first worker; others are appended to `workers`.
            name: Of the first worker.
            joined: Another process created the study, and may be at work.
            take_over: Other hosts, whose trials send no heartbeats, are gone for good.

        Raises:
            StudyError: Another host measures, and nothing says whether it lives.
        """
        self.study, self.plan, self.survey = study, plan, survey
        self.workers = [Worker(bench, name)]
        # Is told, at each trial, what is likely to be asked next.
        self.on_likely: Callable[[list[Configuration]], None] | None = None
        self._lock, self._counter = StudyLock(study), TrialCounter(study)
        if take_over and heartbeat.are_sent(study):
            raise StudyError(
                "--take-over is for SQLite files: in PostgreSQL, trials of a host that is gone "
                f"are abandoned after {GRACE_PERIOD_S} s"
            )
        self.abandoned = self._lock.do(
            lambda: recover(study, self._counter.read().running, take_over=take_over)
        )
        self._device = bench.device()
        self.measurer = Measurer(study, self._device, self._lock, self.workers, joined)
        self.calibration = Calibration(self.measurer)
        self.baselines = BaselineMeasurement(self.measurer, survey.workloads)
        self.retiming = FinalistRetiming(self.measurer)
        here, known = bench.environment(), environments_of(study)
        self._environment = number_of(known, here) or len(known)
        self._sampler = study.sampler = make_sampler(
            plan.sampler,
            catalogue_of(survey),
            partial(expected, survey.configurations(), self._device),
            plan.seed,
        )
        self._ahead = ThreadPoolExecutor(1, "proposals")
        self._next_proposal: Future[None] | None = None

    @property
    def seconds(self) -> dict[str, float]:
        """Where this run's time went, by stage."""
        return self.measurer.seconds

    def tried(self) -> int:
        """Return how many unique configurations were tried in the study."""
        return retry_on_disconnect(self._counter.read).finished

    def budget(self, trials: int) -> int:
        """Return how many trials can be had of `trials`: the space may be smaller."""
        return min(trials, self.survey.size)

    def pace(self) -> TrialPace:
        """Return what trials of this study take, by those that it holds."""
        evaluations = (trial.evaluation for trial in finished_trials(self.study))
        return TrialPace.of(self.survey, self._device.kind, evaluations)

    def add_probes(self, count: int) -> int:
        """Have so many more configurations of the probe order tried before anything else.

        Returns how many trials that takes: some may have been tried already.
        """
        sizes, seed = self._sampler.catalogue.sizes, self.plan.seed
        tried = self._sampler.observations(self.study).tried
        wanted = len(probed(sizes, seed, tried)) + count
        self.study.set_user_attr(PROBES, wanted)
        order = self._sampler.probe_order[:wanted].tolist()
        return sum(index not in tried for index in order)

    def expected_gains(self) -> list[float]:
        """Return what was expected of each trial that the surrogate chose, in order."""
        return [
            trial.system_attrs[EXPECTED_GAIN]
            for trial in self.study.get_trials(deepcopy=False)
            if EXPECTED_GAIN in trial.system_attrs
        ]

    def coverage(self) -> dict[str, dict[Choice, tuple[int, int]]]:
        """Return how many configurations of each choice were tried, and are possible."""
        return self._sampler.catalogue.coverage(self._sampler.observations(self.study).tried)

    def trial(self, worker: Worker | None = None, budget: int | None = None) -> Evaluation:
        """Ask, measure and tell one trial, as `next_trial` does; return what was found."""
        return self.next_trial(worker, budget).evaluation

    def next_trial(self, worker: Worker | None = None, budget: int | None = None) -> FinishedTrial:
        """Ask, measure and tell one trial. An interrupt abandons it and is passed on.

        Args:
            worker: Where it is measured.
            budget: Of the study's trials, with those that others measure now.

        Raises:
            SpaceExhausted: Everything was tried before, or `budget` was spent.
            NothingToClaimError: So it will be, if nobody who measures now dies.
            TrialLostError: It was given up by others meanwhile.
        """
        worker = worker or self.workers[0]
        before = time.monotonic()
        trial = self._claim(worker, budget)
        configuration = self.plan.space.configuration(trial.params)
        self.measurer.add_seconds("search", time.monotonic() - before)
        try:
            self._propose_ahead()
            with heartbeat.sent(self.study, trial):
                evaluation = self.measurer.evaluate(configuration, worker)
        except BaseException:
            self._abandon(trial, "interrupted")
            raise
        before = time.monotonic()
        default = self.baselines.known(configuration.workload)
        if default is None:  # a study whose defaults somebody removed
            raise StudyError(f"the default of {configuration.workload.key} is not known")
        baseline = objective_baseline(self.plan, default, self._device)
        try:
            retry_on_disconnect(lambda: tell(self.study, trial, evaluation, baseline))
        except UpdateFinishedTrialError:
            # Or they told it, from what was stored here.
            if stored_state(self.study, trial) is TrialState.FAIL:
                raise TrialLostError(
                    f"trial {trial.number} was given up by others, who heard nothing of this "
                    "process for too long"
                ) from None
        self.measurer.add_seconds("storage", time.monotonic() - before)
        if worker.since_anchor is not None:
            worker.since_anchor += 1
        return FinishedTrial(trial.number, evaluation, self._environment, worker.label)

    def trials(
        self, worker: Worker, budget: int, go_on: Callable[[], bool]
    ) -> Iterator[FinishedTrial | str]:
        """Measure at a worker until the budget is spent or `go_on` says no.

        Yields what was found, or in words how a trial was lost.
        """
        while go_on():
            try:
                self.calibration.measure_if_due(worker)
                found: FinishedTrial | str = self.next_trial(worker, budget)
            except NothingToClaimError:
                time.sleep(POLL_S)
                continue
            except SpaceExhausted:
                break
            except TrialLostError as error:
                found = str(error)
            yield found
        if worker.since_anchor is not None:
            self.calibration.measure_if_due(worker, last=True)

    def _claim(self, worker: Worker, budget: int | None) -> Trial:
        """Ask for a trial that nobody else measures."""
        recovered = 0
        while True:
            trial = None
            try:
                with self._lock.held():
                    count = self._counter.read()
                    recovered += recover(self.study, count.running)
                    if count.running:  # some may be no more
                        count = self._counter.read()
                    running = len(count.running)
                    if budget is not None and count.finished + running >= budget:
                        raise NothingToClaimError if count.finished < budget else SpaceExhausted
                    try:
                        trial = ask(self.study, worker.label, self._environment)
                        self._look_ahead()
                    except SpaceExhausted:
                        if running:
                            raise NothingToClaimError from None
                        raise
            except LockLostError:
                if trial is not None:
                    self._abandon(trial, PAUSED)
                continue
            except UpdateFinishedTrialError:
                # A process that was paused and does not know yet that it lost the lock gave the
                # trial up: it had no owner when that process looked.
                continue
            with self.measurer.threads:
                self.abandoned += recovered
            return trial

    def _propose_ahead(self) -> None:
        """Have the next proposal made while this one is measured.

        With one worker, nothing of ours runs beside what it measures, and the next proposal knows
        of everything that was found.
        """
        if self._next_proposal is not None and self._next_proposal.done():
            self._next_proposal.result()  # what went wrong there is not to pass unseen
        if len(self.workers) > 1 and (self._next_proposal is None or self._next_proposal.done()):
            self._next_proposal = self._ahead.submit(self._propose)

    def _propose(self) -> None:
        with suppress(*STORAGE_FAILURES):  # whoever asks next finds them
            self._sampler.propose_ahead(self.study)

    def _look_ahead(self) -> None:
        if self.on_likely is None:
            return
        params = map(self._sampler.catalogue.params, self._sampler.likely(self.study, LIKELY))
        self.on_likely([self.plan.space.configuration(each) for each in params])

    def _abandon(self, trial: Trial, reason: str) -> None:
        try:
            retry_on_disconnect(lambda: abandon(self.study, trial, reason))
        except UpdateFinishedTrialError:
            return  # others have
