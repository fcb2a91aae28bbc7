"""How long a run will take, from what trials took elsewhere."""

from __future__ import annotations

from studies.space.space import Survey
from variants.device import DeviceKind

# Seconds a trial, of a backend that does not compile and of one that does. Orders of magnitude of
# small decode shapes, as `python -m search run` prints them at its end: larger shapes take longer.
SECONDS_A_TRIAL: dict[DeviceKind, tuple[float, float]] = {"cuda": (0.3, 4.0), "cpu": (0.6, 3.5)}
START_S = 8.0


def estimate_s(survey: Survey, kind: DeviceKind, trials: int) -> float:
    """Return the expected seconds of `trials` trials and the defaults."""
    plain, compiled = SECONDS_A_TRIAL[kind]
    variants = [variant for possible in survey.possible.values() for variant in possible]
    share = sum(variant.compiles for variant in variants) / max(1, len(variants))
    budget = min(trials, survey.size)
    return (
        START_S + plain * len(survey.workloads) + budget * (share * compiled + (1 - share) * plain)
    )
