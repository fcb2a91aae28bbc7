"""What the parts of a session share: its workers, and how they measure for its study."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import optuna

from objectives.roofline.bound import Peaks, under_roofline
from objectives.schema.evaluation import Evaluation
from objectives.timing.host_scaling import at_full_speed
from studies.session.worker_pool import Worker
from studies.storage.lock import StudyLock
from studies.study.device_peaks import has_peaks, peaks_of_study, set_first_peaks
from variants.configuration import Configuration
from variants.device import Device
from variants.workload import Workload


@dataclass
class Measurer:
    """Has workers measure configurations, and places the results under the study's roofline."""

    study: optuna.Study
    device: Device
    lock: StudyLock
    workers: list[Worker]
    joined: bool  # another process created the study, and may be at work
    seconds: dict[str, float] = field(default_factory=dict)  # of this run, by stage
    # Guards what the workers' threads share, here and in the parts of the session.
    threads: threading.Lock = field(default_factory=threading.Lock)
    _peaks: list[Peaks | None] = field(default_factory=list)  # one, once it is known

    def evaluate(self, configuration: Configuration, worker: Worker | None = None) -> Evaluation:
        """Measure a configuration; by the first worker if none is named."""
        worker = worker or self.workers[0]
        evaluation = worker.bench.evaluate(configuration)
        for stage, spent in evaluation.seconds.items():
            self.add_seconds(stage, spent)
        peaks = self._measured_peaks(worker)
        full_ms = None if peaks is None else peaks.yardstick_ms
        return under_roofline(at_full_speed(evaluation, full_ms), self.device, peaks)

    def in_turn(self, workloads: Sequence[Workload]) -> Sequence[Workload]:
        """Return them in another order for each process that joins, so that they share them."""
        first = hash(self.workers[0].label) % len(workloads) if self.joined and workloads else 0
        return [*workloads[first:], *workloads[:first]]

    def add_seconds(self, stage: str, spent: float) -> None:
        """Add seconds to what a stage of this run took."""
        with self.threads:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent

    def _measured_peaks(self, worker: Worker) -> Peaks | None:
        """Return the study's rates, measured when they are first needed."""
        with self.threads:
            if not self._peaks:
                if not has_peaks(self.study):
                    before = time.monotonic()
                    measured = worker.bench.peaks()
                    self.lock.do(partial(set_first_peaks, self.study, measured))
                    self.seconds["roofline"] = time.monotonic() - before
                self._peaks.append(peaks_of_study(self.study))
            return self._peaks[0]
