"""A configuration: one workload and one variant, the unit that a trial measures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from variants.caches import CACHES
from variants.device import Device
from variants.variant import VARIANT_AXES, Variant
from variants.workload import Workload

WORKLOAD_AXES = tuple(Workload.model_fields)


def inactive_axes(workload: Workload, cache: object) -> frozenset[str]:
    """Return the variant axes that mean nothing for a workload and a choice of cache.

    Only decoding reads a cache; only a cache has a kv_dtype; only grouped heads can be repeated.
    """
    inactive = set()
    if not workload.decodes:
        inactive.add("cache")
    if not workload.decodes or cache is None or not CACHES[str(cache)].reuses:
        inactive.add("kv_dtype")
    if not workload.grouped:
        inactive.add("gqa")
    return frozenset(inactive)


def active_choices(workload: Workload, choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return variant choices without inactive axes; active ones that are missing get the simplest.

    Choices whose active ones are equal are of the same variant.
    """
    inactive = inactive_axes(workload, choices.get("cache"))
    return {
        axis: choices.get(axis) or next(iter(registry))
        for axis, registry in VARIANT_AXES.items()
        if axis not in inactive
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

    @model_validator(mode="after")
    def _only_active_axes(self) -> Self:
        inactive = inactive_axes(self.workload, self.variant.cache)
        for axis, value in self.variant.model_dump().items():
            if axis in inactive and value is not None:
                raise ValueError(f"{axis} must be absent for {self.workload.key}, got {value}")
            if axis not in inactive and value is None:
                raise ValueError(f"{axis} must be named for {self.workload.key}, got none at all")
        return self

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
