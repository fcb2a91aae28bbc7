"""A configuration: one workload and one variant, the unit that a trial measures."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, model_validator

from variants.backends import BACKENDS
from variants.device import Device
from variants.variant import Variant
from variants.workload import Workload

WORKLOAD_AXES = tuple(Workload.model_fields)


class Configuration(BaseModel):
    """One workload computed one way."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workload: Workload
    variant: Variant

    @model_validator(mode="after")
    def _cache_only_when_decoding(self) -> Configuration:
        if self.workload.decodes and self.variant.cache is None:
            raise ValueError("cache must be named for a decode workload, got none at all")
        if not self.workload.decodes and self.variant.cache is not None:
            raise ValueError(f"cache must be absent outside decode, got {self.variant.cache}")
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
    additive = workload.score_mod_entry[0].additive
    has_bf16 = device.kind == "cuda" and (device.capability or (0, 0)) >= (8, 0)
    return Variant(
        backend=BACKENDS["auto"].name if additive else BACKENDS["eager"].name,
        precision="bf16" if has_bf16 else ("fp16" if device.kind == "cuda" else "fp32"),
        cache="concat" if workload.decodes else None,
    )
