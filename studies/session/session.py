"""One run of a study: defaults first, then trials until the budget is spent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState

from objectives.roofline.bound import Peaks, under_roofline
from objectives.schema.evaluation import Evaluation
from objectives.timing.host_scaling import at_full_speed, turns_at_full_speed
from objectives.trial.bench import Bench
from studies.results.front import WorkloadResult, finalists
from studies.samplers.samplers import make_sampler
from studies.session.worker_pool import Post
from studies.space.catalogue import catalogue_of, expected
from studies.space.probes import probed
from studies.space.space import SpaceExhausted, Survey
from studies.storage import heartbeat as lease
from studies.storage.database import LEASE_S, STORAGE_FAILURES, uncut
from studies.storage.lock import ClaimLock, ClaimLostError
from studies.storage.optuna_internals import stored_state
from studies.study.anchor import (
    EVERY,
    AnchorPoint,
    add_anchor,
    anchor_configuration,
    anchors_of,
    disagreements,
)
from studies.study.attributes import EXPECTED_GAIN, PROBES, StudyError
from studies.study.baseline import default_of, objective_unit, set_default
from studies.study.counter import Tally
from studies.study.device_peaks import has_peaks, peaks_of_study, set_first_peaks
from studies.study.finalists import Finals, finals_of, judge, set_finals
from studies.study.plan import Plan, environments_of, number_of
from studies.study.snapshot import Snapshot
from studies.study.trials import abandon, ask, recover, tell
from variants.axes import Choice
from variants.configuration import Configuration, default_variant
from variants.workload import Workload

LIKELY = 16  # configurations that whoever prepares for them is told of
POLL_S = 0.5  # between looks at what others measure, once nothing else is left
PAUSED = "its process was paused while it asked"  # why a trial was abandoned


class NothingNowError(Exception):
    """All that is left to measure is being measured by others, who may yet fail to."""


class TrialLostError(Exception):
    """A trial was given up by others, who took its process for dead; what it found is dropped."""


@dataclass
class Session:
    """Measures the configurations of a study, beside other sessions of the same study.

    A caller drives it: `begin`, `measure_defaults`, then `trial` until it raises. Each of these
    takes a post, the first one if none is named, and several may be at work in threads.
    """

    study: optuna.Study
    plan: Plan
    survey: Survey
    bench: Bench  # of the first post
    name: str = "device"  # of the first post
    seconds: dict[str, float] = field(default_factory=dict)  # where this run's time went
    abandoned: int = 0
    posts: list[Post] = field(default_factory=list)
    joined: bool = False  # another process created the study, and may be at work
    take_over: bool = False  # other hosts, whose trials have no leases, are gone for good
    # Is told, at each trial, what is likely to be asked next.
    on_likely: Callable[[list[Configuration]], None] | None = None
    _defaults: dict[str, Evaluation] = field(default_factory=dict)  # by workload key
    _begun: set[str] = field(default_factory=set)  # workloads whose default is being measured
    _peaks: list[Peaks | None] = field(default_factory=list)  # one, once it is known

    def __post_init__(self) -> None:
        """Settle what a dead run left behind, and install the sampler."""
        self.posts = [Post(self.bench, self.name)]
        self._claims = ClaimLock(self.study)
        self._own = threading.Lock()  # of what the posts share
        if self.take_over and lease.are_kept(self.study):
            raise StudyError(
                "--take-over is for SQLite files: in PostgreSQL, trials of a host that is gone "
                f"are abandoned after {LEASE_S} s"
            )
        self._tally = Tally(self.study)
        self.abandoned = self._claims.do(
            lambda: recover(self.study, self._tally.read().running, take_over=self.take_over)
        )
        self._device = self.bench.device()
        here, known = self.bench.environment(), environments_of(self.study)
        self._environment = number_of(known, here) or len(known)
        self._sampler = self.study.sampler = make_sampler(
            self.plan.sampler,
            catalogue_of(self.survey),
            partial(expected, self.survey.configurations(), self._device),
            self.plan.seed,
        )
        self._thinker = ThreadPoolExecutor(1, "proposals")
        self._thought: Future[None] | None = None

    def tried(self) -> int:
        """Return how many unique configurations the study has told."""
        return uncut(self._tally.read).finished

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
        """Return how many configurations of each choice were tried, and are possible.

        Axes that mean nothing in this space (a cache where nothing decodes) are left out.
        """
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
        return {name: of_axis for name, of_axis in found.items() if of_axis}

    def begin(self, post: Post) -> AnchorPoint | None:
        """Start a post's process, and measure the anchor there.

        Raises:
            StudyError: Its environment is not that of the first one.
        """
        there, here = self.bench.environment(), post.bench.environment()
        if differences := there.differences(here):
            raise StudyError(f"these differ: {'; '.join(differences)}")
        return self.anchor(post)

    def disagreements(self) -> dict[str, str]:
        """Say of each post whose anchor disagrees with the study's by how much, by its label."""
        own = {post.label for post in self.posts}
        return disagreements(anchors_of(self.study), own, self._device.kind)

    def leave_out(self) -> list[str]:
        """Dismiss the posts whose anchor disagrees with the study's; say why, a line each."""
        found = self.disagreements()
        self.posts = [post for post in self.posts if post.label not in found]
        return list(found.values())

    def count_without_default(self) -> int:
        """Return how many workloads have no default yet."""
        return sum(self._default(workload) is None for workload in self.survey.workloads)

    def measure_defaults(self, post: Post | None = None) -> Iterator[Evaluation]:
        """Measure and store what PyTorch does by default, where that is not known."""
        for workload in self._in_turn(self.survey.workloads):
            with self._own:
                missing = self._default(workload) is None and workload.key not in self._begun
                if missing:
                    self._begun.add(workload.key)
            if missing:
                try:
                    evaluation = self.measure_default(workload, post)
                finally:  # where it failed, it is for another post
                    with self._own:
                        self._begun.discard(workload.key)
                yield evaluation

    def measure_default(self, workload: Workload, post: Post | None = None) -> Evaluation:
        """Measure and store what PyTorch does with `workload` by default.

        Where another process did so meanwhile, its numbers stand.
        """
        variant = default_variant(workload, self._device)
        configuration = Configuration(workload=workload, variant=variant)
        evaluation = self._evaluate(configuration, post or self.posts[0])

        def store() -> Evaluation:
            stored = self._default(workload)
            if stored is None:
                set_default(self.study, evaluation)
            return stored or evaluation

        return self._claims.do(store)

    def _in_turn(self, workloads: Sequence[Workload]) -> Sequence[Workload]:
        """Return them in another order for each process that joins, so that they share them."""
        first = hash(self.posts[0].label) % len(workloads) if self.joined and workloads else 0
        return [*workloads[first:], *workloads[:first]]

    def _default(self, workload: Workload) -> Evaluation | None:
        if workload.key not in self._defaults:
            # All that are new: reading one costs as much.
            held = Snapshot.of(self.study)
            for each in self.survey.workloads:
                stored = None if each.key in self._defaults else default_of(held, each)
                if stored is not None:
                    self._defaults[each.key] = stored
        return self._defaults.get(workload.key)

    def trial(self, post: Post | None = None, budget: int | None = None) -> Evaluation:
        """Ask, measure and tell one trial. An interrupt abandons it and is passed on.

        Args:
            post: Where it is measured.
            budget: Of the study's trials, with those that others measure now.

        Raises:
            SpaceExhausted: Everything was tried before, or `budget` was spent.
            NothingNowError: So it will be, if nobody who measures now dies.
            TrialLostError: It was given up by others meanwhile.
        """
        post = post or self.posts[0]
        before = time.monotonic()
        trial = self._claim(post, budget)
        configuration = self.plan.space.configuration(trial.params)
        self._add("search", time.monotonic() - before)
        try:
            self._think_ahead()
            with lease.kept(self.study, trial):
                evaluation = self._evaluate(configuration, post)
        except BaseException:
            self._abandon(trial, "interrupted")
            raise
        before = time.monotonic()
        default = self._default(configuration.workload)
        if default is None:  # a study whose defaults somebody removed
            raise StudyError(f"the default of {configuration.workload.key} is not known")
        unit = objective_unit(self.plan, default, self._device)
        try:
            uncut(lambda: tell(self.study, trial, evaluation, unit))
        except UpdateFinishedTrialError:
            # Or they told it, from what was stored here.
            if stored_state(self.study, trial) is TrialState.FAIL:
                raise TrialLostError(
                    f"trial {trial.number} was given up by others, who heard nothing of this "
                    "process for too long"
                ) from None
        self._add("storage", time.monotonic() - before)
        if post.since_anchor is not None:
            post.since_anchor += 1
        return evaluation

    def trials(
        self, post: Post, budget: int, go_on: Callable[[], bool]
    ) -> Iterator[Evaluation | str]:
        """Measure at a post until the budget is spent or `go_on` says no.

        Yields what was found, or in words how a trial was lost.
        """
        while go_on():
            try:
                self.anchor(post)
                found: Evaluation | str = self.trial(post, budget)
            except NothingNowError:
                time.sleep(POLL_S)
                continue
            except SpaceExhausted:
                break
            except TrialLostError as error:
                found = str(error)
            yield found
        if post.since_anchor is not None:
            self.anchor(post, last=True)

    def _claim(self, post: Post, budget: int | None) -> Trial:
        """Ask for a trial that nobody else measures."""
        recovered = 0
        while True:
            trial = None
            try:
                with self._claims.held():
                    count = self._tally.read()
                    recovered += recover(self.study, count.running)
                    if count.running:  # some may be no more
                        count = self._tally.read()
                    running = len(count.running)
                    if budget is not None and count.finished + running >= budget:
                        raise NothingNowError if count.finished < budget else SpaceExhausted
                    try:
                        trial = ask(self.study, post.label, self._environment)
                        self._look_ahead()
                    except SpaceExhausted:
                        if running:
                            raise NothingNowError from None
                        raise
            except ClaimLostError:
                if trial is not None:
                    self._abandon(trial, PAUSED)
                continue
            except UpdateFinishedTrialError:
                # A process that was paused and does not know yet that it lost the lock gave the
                # trial up: it had no owner when that process looked.
                continue
            with self._own:
                self.abandoned += recovered
            return trial

    def _think_ahead(self) -> None:
        """Have the next proposal made while this one is measured.

        With one post, nothing of ours runs beside what it measures, and the next proposal knows of
        everything that was found.
        """
        if self._thought is not None and self._thought.done():
            self._thought.result()  # what went wrong there is not to pass unseen
        if len(self.posts) > 1 and (self._thought is None or self._thought.done()):
            self._thought = self._thinker.submit(self._think)

    def _think(self) -> None:
        with suppress(*STORAGE_FAILURES):  # whoever asks next finds them
            self._sampler.think_ahead(self.study)

    def _look_ahead(self) -> None:
        if self.on_likely is None:
            return
        params = map(self._sampler.catalogue.params, self._sampler.likely(self.study, LIKELY))
        self.on_likely([self.plan.space.configuration(each) for each in params])

    def _abandon(self, trial: Trial, reason: str) -> None:
        try:
            uncut(lambda: abandon(self.study, trial, reason))
        except UpdateFinishedTrialError:
            return  # others have

    def workloads_to_retime(self, results: Sequence[WorkloadResult]) -> Iterator[WorkloadResult]:
        """Yield, in this process's turn, what nobody has timed since its newest trial."""
        by_key = {result.workload.key: result for result in results}
        for workload in self._in_turn([result.workload for result in results]):
            result = by_key[workload.key]
            finals = finals_of(self.study, workload)
            newest = max((c.number or 0 for c in result.measured), default=0)
            if finals is None or not finals.finalists or finals.after_trial < newest:
                yield result

    def compare_finalists(self, result: WorkloadResult, post: Post | None = None) -> Finals | None:
        """Time a workload's finalists again, in turns, and store the verdicts.

        None where there is nothing to compare.
        """
        chosen = finalists(result)
        if not chosen:
            return None
        comparison = (post or self.posts[0]).bench.compare([each.configuration for each in chosen])
        finals = judge(
            turns_at_full_speed(comparison, chosen),
            reference=chosen[0].configuration.variant.key,
            after_trial=max(
                (c.number for c in result.measured if c.number is not None), default=-1
            ),
        )
        uncut(lambda: set_finals(self.study, result.workload, finals))
        self._add("finalists", comparison.seconds)
        return finals

    def anchor(self, post: Post | None = None, *, last: bool = False) -> AnchorPoint | None:
        """Measure the anchor where it is due: at first, every so often, and at last."""
        post = post or self.posts[0]
        due = post.since_anchor is None or post.since_anchor >= (1 if last else EVERY)
        return self.anchor_now(post) if due else None

    def anchor_now(self, post: Post) -> AnchorPoint:
        """Measure the anchor."""
        next_number = len(self.study.get_trials(deepcopy=False))
        evaluation = post.bench.evaluate(anchor_configuration(self._device))
        post.since_anchor = 0
        self._add("anchor", sum(evaluation.seconds.values()))
        return self._claims.do(lambda: add_anchor(self.study, evaluation, next_number, post.label))

    def _evaluate(self, configuration: Configuration, post: Post) -> Evaluation:
        evaluation = post.bench.evaluate(configuration)
        for stage, spent in evaluation.seconds.items():
            self._add(stage, spent)
        peaks = self._measured_peaks(post)
        full_ms = None if peaks is None else peaks.yardstick_ms
        return under_roofline(at_full_speed(evaluation, full_ms), self._device, peaks)

    def _measured_peaks(self, post: Post) -> Peaks | None:
        """Return the study's rates, measured when they are first needed."""
        with self._own:
            if not self._peaks:
                if not has_peaks(self.study):
                    before = time.monotonic()
                    measured = post.bench.peaks()
                    self._claims.do(partial(set_first_peaks, self.study, measured))
                    self.seconds["roofline"] = time.monotonic() - before
                self._peaks.append(peaks_of_study(self.study))
            return self._peaks[0]

    def _add(self, stage: str, spent: float) -> None:
        with self._own:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent
