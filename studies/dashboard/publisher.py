"""Keeps what optuna-dashboard shows of a study up to date: its note and its figures."""

from __future__ import annotations

import time

import optuna

from studies.dashboard.front_figures import save_plots
from studies.dashboard.note import save_summary
from studies.results.results import read_results
from studies.storage.database import retry_on_disconnect

LEAST_S = 15.0  # between two updates of a running study
MOST = 1 / 20  # of a run's time may go into updates


def publish(study: optuna.Study) -> None:
    """Store note and figures of what the study holds now."""
    results = read_results(study)
    save_summary(study, results)
    if results.workloads:
        save_plots(study, results)


class Publisher:
    """Publishes a running study, between trials and rarely: it must not disturb measurements."""

    def __init__(self, study: optuna.Study) -> None:
        import optuna_dashboard  # noqa: F401 (takes seconds: now, not between two trials)

        self._study = study
        self._due = 0.0

    def refresh(self) -> float:
        """Publish if it is time to. Returns the seconds that it took."""
        begin = time.monotonic()
        if begin < self._due:
            return 0.0
        retry_on_disconnect(lambda: publish(self._study))
        spent = time.monotonic() - begin
        self._due = begin + max(LEAST_S, spent / MOST)
        return spent
