"""The run: drives a session, shows its progress, and ends as the user wishes."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
)

from objectives.process.client import ProcessError
from objectives.schema.evaluation import Evaluation, Outcome
from studies.dashboard.publisher import Publisher
from studies.results.labels import (
    duration,
    milliseconds,
    trial_line,
    trial_name,
    workload_label,
)
from studies.session.estimate import TrialPace
from studies.session.session import Session
from studies.session.worker_pool import Worker, WorkerPool
from studies.study.anchor import NEWEST
from studies.study.attributes import StudyError
from studies.study.trials import FinishedTrial
from variants.detect import DeviceMissingError


class Interrupt:
    """Ctrl-C: the first finishes the trial in flight, the second abandons it."""

    def __init__(self, console: Console) -> None:
        self.asked = False
        self._console = console

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._console.print(
            "stopping after the trial in flight; once more (Ctrl-C) abandons it", style="yellow"
        )

    def watched(self) -> AbstractContextManager[None]:
        """Handle SIGINT and SIGTERM inside the block."""
        return _handled_by(self._handle)

    def ignored(self) -> AbstractContextManager[None]:
        """Let SIGINT and SIGTERM pass inside the block."""
        return _handled_by(signal.SIG_IGN)


@contextmanager
def _handled_by(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers,
) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, earlier in zip(numbers, before, strict=True):
            signal.signal(number, earlier)


_Answer = TypeVar("_Answer")
# What ends the work of one device, while others go on.
OF_ONE_WORKER = (ProcessError, DeviceMissingError, StudyError)
LITTLE = 1e-3  # of the hypervolume: no gain to wait for


@dataclass(frozen=True, slots=True)
class Limit:
    """When a run ends, whatever comes first."""

    trials: int  # told in all
    minutes: float | None = None  # of this run
    patience: int | None = None  # trials in a row of which the surrogate expects next to nothing


class Runner:
    """Runs a session until its budget of trials or minutes is spent, or the user stops it."""

    def __init__(
        self,
        console: Console,
        session: Session,
        *,
        keep_all_workers: bool = False,
        finalists: bool = True,
        begun: float | None = None,
    ) -> None:
        """Drive a session.

        Args:
            console: Where it is told how the run goes.
            session: What is run.
            keep_all_workers: Those, too, that disagree with the study's anchor.
            finalists: Whether they are timed in turns behind the trials.
            begun: When the run began, by `time.monotonic`; now, if not given.
        """
        self.keep_all_workers, self.finalists = keep_all_workers, finalists
        self._console, self.session = console, session
        self._varying = set(session.plan.space.searched)
        self._outcomes: Counter[Outcome] = Counter()
        self._best: dict[str, float] = {}  # lowest latency by workload key, as a share of default
        self.interrupt = Interrupt(console)
        self.trials = 0  # of this run
        self._begun = time.monotonic() if begun is None else begun
        self.out_of_time = False
        self.out_of_patience = False

    def run(self, limit: Limit) -> None:
        """Measure until a limit is reached.

        Raises:
            KeyboardInterrupt: Ctrl-C, twice; everything told is kept.
            StudyError: No device may measure the study.
        """
        deadline = None if limit.minutes is None else time.monotonic() + 60 * limit.minutes
        with self.interrupt.watched(), self._progress() as progress:
            self._begin(progress)
            self._measure_defaults(progress)
            self._measure_trials(progress, limit, deadline)

    def _heard(
        self, progress: Progress, work: Callable[[Worker], Iterator[_Answer]]
    ) -> Iterator[tuple[Worker, _Answer]]:
        """Have all workers do some work, and yield what they find; one that fails is left out.

        Raises:
            Exception: What ended the last one, or what is no device's fault.
        """
        for worker, found in WorkerPool(tuple(self.session.workers), work):
            if not isinstance(found, Exception):
                yield worker, found
                continue
            if len(self.session.workers) == 1 or not isinstance(found, OF_ONE_WORKER):
                raise found
            self.session.workers.remove(worker)
            self._say(progress, f"{worker.name} is left out: {found}", style="yellow")

    def _begin(self, progress: Progress) -> None:
        """Start the workers and compare what they say of the anchor."""
        session = self.session

        def begin(worker: Worker) -> Iterator[None]:
            session.calibration.begin(worker)
            yield

        def again(worker: Worker) -> Iterator[None]:
            session.calibration.measure(worker)
            yield

        for _ in self._heard(progress, begin):
            pass
        if not self.keep_all_workers:
            for _ in range(NEWEST - 1):  # one may be noise: nobody is left out for that
                if session.calibration.disagreements():
                    for _ in self._heard(progress, again):
                        pass
            for line in session.calibration.leave_out():
                self._say(progress, line, style="yellow")
        if not session.workers:
            raise StudyError(
                f"study {session.study.study_name} cannot be measured here: no device is left "
                "(--new-environment goes on all the same, and marks the trials)"
            )

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[status]}"),
            console=self._console,
            disable=self._console.quiet or not self._console.is_terminal,
        )

    def _measure_defaults(self, progress: Progress) -> None:
        session = self.session
        missing = session.baselines.count_missing()
        task = progress.add_task(
            "defaults", total=missing, status="", left="", visible=bool(missing)
        )

        def measure(worker: Worker) -> Iterator[Evaluation]:
            for evaluation in session.baselines.measure_missing(worker):
                yield evaluation
                if self.interrupt.asked:
                    return

        # Again: a worker that was left out may have left one undone.
        while session.baselines.count_missing() and not self.interrupt.asked:
            for _, evaluation in self._heard(progress, measure):
                self._say(progress, f"default  {trial_line(evaluation, self._varying)}")
                progress.advance(task)
        progress.update(task, visible=False)

    def _measure_trials(self, progress: Progress, limit: Limit, deadline: float | None) -> None:
        session = self.session
        budget = session.budget(limit.trials)
        task = progress.add_task(
            "trials", total=budget, completed=session.tried(), status="", left=""
        )
        publisher = Publisher(session.study)
        pace = session.pace()

        def go_on() -> bool:
            if deadline is not None and time.monotonic() >= deadline:
                self.out_of_time = True
            elif limit.patience is not None and self._is_stale(limit.patience):
                self.out_of_patience = True
            return not (self.interrupt.asked or self.out_of_time or self.out_of_patience)

        def measure(worker: Worker) -> Iterator[FinishedTrial | str]:
            return session.trials(worker, budget, go_on)

        for worker, found in self._heard(progress, measure):
            if isinstance(found, str):
                self._say(progress, found, style="yellow")
                continue
            tried = session.tried()
            self.trials += 1
            pace.tell(found.evaluation)
            self._note(found.evaluation)
            left = self._left(pace, budget - tried, budget, deadline)
            where = f"{worker.name}  " if len(session.workers) > 1 else ""
            line = (
                f"{trial_name(found.number):>5} ({tried}/{budget})  {where}"
                f"{trial_line(found.evaluation, self._varying)}"
            )
            if not self._console.is_terminal:  # no progress bar says it
                line += f"  [{left}]"
            self._say(progress, line)
            progress.update(task, completed=tried, status=self._status(), left=left)
            session.seconds["storage"] = session.seconds.get("storage", 0.0) + publisher.refresh()

    def _left(self, pace: TrialPace, left: int, budget: int, deadline: float | None) -> str:
        """Return how long the run has taken and will go on, its finalists included."""
        workers = max(1, len(self.session.workers))
        seconds = pace.left_s(left, workers)
        if deadline is not None:
            seconds = min(seconds, max(0.0, deadline - time.monotonic()))
        if self.finalists:
            seconds += pace.finalists_s(len(self.session.survey.workloads), budget) / workers
        spent = duration(time.monotonic() - self._begun)
        return f"{spent}, about {duration(seconds)} left" if seconds else spent

    def _is_stale(self, patience: int) -> bool:
        """Tell whether the surrogate expects next to nothing, and has for so many trials."""
        gains = self.session.expected_gains()[-patience:]
        return len(gains) == patience and max(gains) < LITTLE

    def _note(self, evaluation: Evaluation) -> None:
        self._outcomes[evaluation.outcome] += 1
        if evaluation.outcome is not Outcome.MEASURED or evaluation.latency_ms is None:
            return
        label = workload_label(evaluation.configuration.workload, self._varying)
        known = self._best.get(label, evaluation.latency_ms)
        self._best[label] = min(known, evaluation.latency_ms)

    def _status(self) -> str:
        counts = " ".join(f"{outcome.value}:{n}" for outcome, n in self._outcomes.most_common())
        if len(self._best) == 1:
            (best,) = self._best.values()
            counts += f"  best {milliseconds(best)} ms"
        return counts

    def _say(self, progress: Progress, line: str, style: str | None = None) -> None:
        progress.console.print(line, style=style, highlight=False, soft_wrap=True, markup=False)


def stopping_reason(runner: Runner, session: Session, trials: int, wall_s: float) -> str:
    """Return why the run ended, in one line, and how long it took in all."""
    tried, size = session.tried(), session.survey.size
    if runner.interrupt.asked:
        why = "interrupted"
    elif runner.out_of_time:
        why = "time is up"
    elif runner.out_of_patience:
        why = f"the surrogate expects less than {LITTLE:.1%} more"
    elif tried >= size and size <= trials:
        why = "the whole space is measured"
    else:
        why = "budget spent"
    share = f"{tried / size:.0%} of {size} possible configurations"
    return f"{why}: {tried} trials ({share}), {runner.trials} of them now, {duration(wall_s)}"
