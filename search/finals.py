"""Between the last trial and the verdict: the finalists are timed again, in turns."""

from __future__ import annotations

from rich.console import Console

from search.runner import Interrupt
from studies.finalists import Finals
from studies.front import WorkloadResult
from studies.results import read_results
from studies.session import Session
from studies.text import duration, workload_label


def retime_finalists(console: Console, session: Session, interrupt: Interrupt) -> None:
    """Time each workload's finalists in turns, but those that were since its newest trial."""
    varying = set(session.plan.space.searched)
    with interrupt.watched():
        for result in read_results(session.study).workloads:
            if interrupt.asked:
                return
            if _is_current(result):
                continue
            finals = session.compare_finalists(result)
            if finals is not None:
                label = workload_label(result.workload, varying)
                line = f"finalists  {label}  {finals_line(finals)}"
                console.print(line, highlight=False, soft_wrap=True, markup=False)


def _is_current(result: WorkloadResult) -> bool:
    finals = result.finals
    if finals is None or not finals.finalists:
        return False
    return all((candidate.number or 0) <= finals.after_trial for candidate in result.measured)


def finals_line(finals: Finals) -> str:
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
