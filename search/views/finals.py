"""Between the last trial and the verdict: the finalists are timed again, in turns."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from rich.console import Console

from search.runner import Interrupt
from studies.results.front import MOST_FINALISTS, WorkloadResult
from studies.results.labels import duration, workload_label
from studies.results.results import read_results
from studies.session.estimate import Pace
from studies.session.session import Session
from studies.session.worker_pool import Worker, WorkerPool
from studies.study.finalists import FinalistTimings


def retime_finalists(console: Console, session: Session, interrupt: Interrupt) -> None:
    """Time each workload's finalists in turns, but those that were since its newest trial."""
    varying = set(session.plan.space.searched)
    due = list(session.retiming.due(read_results(session.study).workloads))
    usual_s = session.pace().finalists_s(1, MOST_FINALISTS) / max(1, len(session.workers))
    left, pace = iter(due), Pace(usual_s)
    taking = threading.Lock()

    def taken() -> Iterator[WorkloadResult]:
        while not interrupt.asked:
            with taking:
                result = next(left, None)
            if result is None:
                return
            yield result

    def work(worker: Worker) -> Iterator[tuple[WorkloadResult, FinalistTimings]]:
        for result in taken():
            finals = session.retiming.measure(result, worker)
            if finals is not None:
                yield result, finals

    with interrupt.watched():
        for _, found in WorkerPool(tuple(session.workers), work):
            if isinstance(found, Exception):
                raise found
            result, finals = found
            label = workload_label(result.workload, varying)
            pace.done += 1
            seconds = pace.left_s(len(due) - pace.done)
            line = f"finalists ({pace.done}/{len(due)})  {label}  {finals_line(finals)}"
            if pace.done < len(due):
                line += f"  [about {duration(seconds)} left]"
            console.print(line, highlight=False, soft_wrap=True, markup=False)


def finals_line(finals: FinalistTimings) -> str:
    """Return what was timed in turns, and what was not, in one line."""
    parts = []
    if finals.finalists:
        words = [one.latency.word for one in finals.finalists if one.variant != finals.reference]
        found = ", ".join(
            f"{words.count(word)} {word}"
            for word in ("faster", "same", "slower", "unclear")
            if word in words
        )
        rounds = min(one.rounds for one in finals.finalists)
        parts.append(f"{found or 'none besides the reference'} in {rounds} rounds")
    parts += [f"{variant} not timed: {reason}" for variant, reason in finals.missing.items()]
    return f"{'; '.join(parts)}, {duration(finals.seconds)}"
