"""Calibration of a session's devices: each measures the anchor at first and every so often."""

from __future__ import annotations

from studies.session.measurer import Measurer
from studies.session.worker_pool import Worker
from studies.study.anchor import (
    EVERY,
    AnchorPoint,
    add_anchor,
    anchor_configuration,
    anchors_of,
    disagreements,
)
from studies.study.attributes import StudyError


class Calibration:
    """Measures anchors, and leaves out the workers whose device disagrees with the study's."""

    def __init__(self, measurer: Measurer) -> None:
        self._of = measurer

    def begin(self, worker: Worker) -> AnchorPoint | None:
        """Start a worker's process, and measure the anchor there.

        Raises:
            StudyError: Its environment is not that of the first worker.
        """
        there, here = self._of.workers[0].bench.environment(), worker.bench.environment()
        if differences := there.differences(here):
            raise StudyError(f"these differ: {'; '.join(differences)}")
        return self.measure_if_due(worker)

    def measure_if_due(
        self, worker: Worker | None = None, *, last: bool = False
    ) -> AnchorPoint | None:
        """Measure the anchor where it is due: at first, every so often, and at last."""
        worker = worker or self._of.workers[0]
        due = worker.since_anchor is None or worker.since_anchor >= (1 if last else EVERY)
        return self.measure(worker) if due else None

    def measure(self, worker: Worker) -> AnchorPoint:
        """Measure the anchor, and store it."""
        study = self._of.study
        next_number = len(study.get_trials(deepcopy=False))
        evaluation = worker.bench.evaluate(anchor_configuration(self._of.device))
        worker.since_anchor = 0
        self._of.add_seconds("anchor", sum(evaluation.seconds.values()))
        return self._of.lock.do(lambda: add_anchor(study, evaluation, next_number, worker.label))

    def disagreements(self) -> dict[str, str]:
        """Say of each worker whose anchor disagrees with the study's by how much, by its label."""
        own = {worker.label for worker in self._of.workers}
        return disagreements(anchors_of(self._of.study), own, self._of.device.kind)

    def leave_out(self) -> list[str]:
        """Dismiss the workers whose anchor disagrees with the study's; say why, a line each."""
        found = self.disagreements()
        self._of.workers[:] = [each for each in self._of.workers if each.label not in found]
        return list(found.values())
