"""The samplers by name."""

from __future__ import annotations

from optuna.samplers import BaseSampler

from studies.sampler import STOCK, ConfigurationSampler
from studies.space import Survey
from studies.surrogate_sampler import SurrogateSampler
from variants.device import Device

OWN = "goldilocks"
SAMPLERS = (OWN, *STOCK)


def make_sampler(name: str, survey: Survey, device: Device | None, seed: int) -> BaseSampler:
    """Return a sampler of `SAMPLERS`; `device` is that of the prior, None for none."""
    if name == OWN:
        return SurrogateSampler(survey, device, seed)
    return ConfigurationSampler(survey, name, seed)
