"""The whole sensitivity analysis of a study, from its trials to the answer."""

from __future__ import annotations

import optuna

from studies.sensitivity.analysis import analyse
from studies.sensitivity.evidence import read_evidence
from studies.sensitivity.importances import optuna_importances
from studies.sensitivity.report import SensitivityReport
from studies.sensitivity.zone import find_zone
from studies.space.defaults import ZONE_TOLERANCE


def assess(
    study: optuna.Study,
    *,
    prior: bool = True,
    by_workload: bool = False,
    tolerance: float = ZONE_TOLERANCE,
) -> SensitivityReport:
    """Return which choices matter, where both objectives are good, and what to try next.

    Raises:
        StudyError: It was written by an incompatible version.
    """
    evidence = read_evidence(study, prior=prior)
    found = analyse(evidence, by_workload=by_workload)
    zone = find_zone(evidence, found, tolerance)
    importances = optuna_importances(study, evidence.seed)
    return SensitivityReport(study.study_name, evidence, found, zone, importances)
