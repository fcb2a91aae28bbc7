"""The default of each workload, measured at the beginning of a run where it is not known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from objectives.schema.evaluation import Evaluation
from studies.session.measurer import Measurer
from studies.session.worker_pool import Worker
from studies.study.baseline import default_of, set_default
from studies.study.snapshot import Snapshot
from variants.configuration import Configuration, default_variant
from variants.workload import Workload


class BaselineMeasurement:
    """Measures what PyTorch does by default, each workload once, by whoever comes to it first."""

    def __init__(self, measurer: Measurer, workloads: Sequence[Workload]) -> None:
        self._of, self._workloads = measurer, workloads
        self._known: dict[str, Evaluation] = {}  # by workload key
        self._begun: set[str] = set()  # keys of workloads whose default is being measured

    def known(self, workload: Workload) -> Evaluation | None:
        """Return the evaluation of a workload's default; None where nobody has measured it."""
        if workload.key not in self._known:
            # All that are new: reading one costs as much.
            read = Snapshot.of(self._of.study)
            for each in self._workloads:
                stored = None if each.key in self._known else default_of(read, each)
                if stored is not None:
                    self._known[each.key] = stored
        return self._known.get(workload.key)

    def count_missing(self) -> int:
        """Return how many workloads have no default yet."""
        return sum(self.known(workload) is None for workload in self._workloads)

    def measure_missing(self, worker: Worker | None = None) -> Iterator[Evaluation]:
        """Measure and store the defaults that are not known and that nobody else measures."""
        for workload in self._of.in_turn(self._workloads):
            with self._of.threads:
                missing = self.known(workload) is None and workload.key not in self._begun
                if missing:
                    self._begun.add(workload.key)
            if missing:
                try:
                    evaluation = self._measure(workload, worker)
                finally:  # where it failed, it is for another worker
                    with self._of.threads:
                        self._begun.discard(workload.key)
                yield evaluation

    def _measure(self, workload: Workload, worker: Worker | None) -> Evaluation:
        """Measure and store one default; one that another process stored meanwhile stands."""
        variant = default_variant(workload, self._of.device)
        configuration = Configuration(workload=workload, variant=variant)
        evaluation = self._of.evaluate(configuration, worker)

        def store() -> Evaluation:
            stored = self.known(workload)
            if stored is None:
                set_default(self._of.study, evaluation)
            return stored or evaluation

        return self._of.lock.do(store)
