"""The finalists of each workload, timed again in turns at the end of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from objectives.timing.host_scaling import turns_at_full_speed
from studies.results.front import WorkloadResult, finalists
from studies.session.measurer import Measurer
from studies.session.worker_pool import Worker
from studies.storage.database import retry_on_disconnect
from studies.study.finalists import (
    FinalistTimings,
    finalist_timings_of,
    judge_finalists,
    set_finalist_timings,
)


class FinalistRetiming:
    """Times finalists in turns with the default, and stores the verdicts."""

    def __init__(self, measurer: Measurer) -> None:
        self._of = measurer

    def due(self, results: Sequence[WorkloadResult]) -> Iterator[WorkloadResult]:
        """Yield, in this process's turn, what nobody has timed since its newest trial."""
        by_key = {result.workload.key: result for result in results}
        for workload in self._of.in_turn([result.workload for result in results]):
            result = by_key[workload.key]
            finals = finalist_timings_of(self._of.study, workload)
            newest = max((c.number or 0 for c in result.measured), default=0)
            if finals is None or not finals.finalists or finals.after_trial < newest:
                yield result

    def measure(
        self, result: WorkloadResult, worker: Worker | None = None
    ) -> FinalistTimings | None:
        """Time a workload's finalists again, in turns, and store the verdicts.

        None where there is nothing to compare.
        """
        chosen = finalists(result)
        if not chosen:
            return None
        bench = (worker or self._of.workers[0]).bench
        comparison = bench.compare([each.configuration for each in chosen])
        finals = judge_finalists(
            turns_at_full_speed(comparison, chosen),
            reference=chosen[0].configuration.variant.key,
            after_trial=max(
                (c.number for c in result.measured if c.number is not None), default=-1
            ),
        )
        retry_on_disconnect(lambda: set_finalist_timings(self._of.study, result.workload, finals))
        self._of.add_seconds("finalists", comparison.seconds)
        return finals
