"""How long a run will take, from what trials took on machines like this one."""

from __future__ import annotations

from studies.space.space import Survey
from variants.device import DeviceKind

# Seconds a trial, compiled backend or not, seen on an H100 (decode, up to 8k tokens) and on two
# cores of a CPU (decode, up to 1k). Larger shapes take longer: this is an order of magnitude.
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
