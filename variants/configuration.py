"""A configuration: one workload and one variant, the unit that a trial measures."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

from variants.axes import VARIANT_AXES, Choice, Chosen
from variants.device import Device
from variants.gqa import grouped_heads
from variants.variant import Variant
from variants.workload import Workload


def inactive_axes(workload: Workload, chosen: Chosen) -> frozenset[str]:
    """Return the variant axes that mean nothing for a workload and the choices of the others."""
    return frozenset(n for n, axis in VARIANT_AXES.items() if not axis.active(workload, chosen))


def activity(
    workload: Workload, space: Mapping[str, Sequence[Choice]]
) -> tuple[frozenset[str], ...]:
    """Return which axes are inactive, for each choice in `space` of what decides about it.

    Workloads that are equal in it have the same variants.
    """
    deciding = dict.fromkeys(name for axis in VARIANT_AXES.values() for name in axis.depends_on)
    combinations = itertools.product(*(space.get(name, (None,)) for name in deciding))
    return tuple(
        inactive_axes(workload, dict(zip(deciding, chosen, strict=True)))
        for chosen in combinations
    )


def active_choices(workload: Workload, choices: Chosen) -> dict[str, Any]:
    """Return variant choices without inactive axes; active ones that are missing get the simplest.

    Choices whose active ones are equal are of the same variant.
    """
    return {
        name: choices.get(name) or axis.default
        for name, axis in VARIANT_AXES.items()
        if axis.active(workload, choices)
    }


class Configuration(BaseModel):
    """One workload computed one way."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workload: Workload
    variant: Variant

    @classmethod
    def of(cls, workload: Workload, choices: Mapping[str, Any]) -> Self:
        """Return the configuration of these variant choices, see `active_choices`."""
        chosen = active_choices(workload, choices)
        return cls(workload=workload, variant=Variant.model_validate(chosen))

    @field_validator("variant")
    @classmethod
    def _axes_that_came_later(cls, variant: Variant, info: ValidationInfo) -> Variant:
        """Put in the default of an axis that a backend got after the variant was stored."""
        workload = info.data.get("workload")
        if workload is None:  # it is wrong itself
            return variant
        chosen = variant.choices
        missing = {
            name: axis.default
            for name, axis in VARIANT_AXES.items()
            if axis.backends and chosen[name] is None and axis.active(workload, chosen)
        }
        return variant.model_copy(update=missing) if missing else variant

    @model_validator(mode="after")
    def _only_active_axes(self) -> Self:
        chosen = self.variant.choices
        inactive = inactive_axes(self.workload, chosen)
        for axis, value in chosen.items():
            if axis in inactive and value is not None:
                raise ValueError(f"{axis} must be absent for {self.workload.key}, got {value}")
            if axis not in inactive and value is None:
                raise ValueError(f"{axis} must be named for {self.workload.key}, got none at all")
        return self

    @property
    def kv_heads_given(self) -> int:
        """How many key/value heads the backend is given."""
        return grouped_heads(self.variant.gqa).kv_heads(self.workload)

    @property
    def key(self) -> str:
        """A readable identity: configurations with equal keys are the same measurement."""
        return f"{self.workload.key} {self.variant.key}"


def default_variant(workload: Workload, device: Device) -> Variant:
    """Return what PyTorch gives a user who chose nothing.

    SDPA choosing its own backend (the written-out attention where the score_mod cannot be
    given to SDPA), bfloat16 on CUDA and float32 on CPU, and a cache that grows by `torch.cat`.
    """
    has_bf16 = device.kind == "cuda" and (device.capability or (0, 0)) >= (8, 0)
    choices = {
        "backend": "auto" if workload.scores.additive else "eager",
        "precision": "bf16" if has_bf16 else ("fp16" if device.kind == "cuda" else "fp32"),
        "cache": "concat",
    }
    return Configuration.of(workload, choices).variant
