"""The variant: how a workload is computed, one choice for each decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from variants.backends import BACKENDS
from variants.caches import CACHES
from variants.executions import EXECUTIONS
from variants.precisions import PRECISIONS
from variants.registry import Registry

VARIANT_AXES: Mapping[str, Registry[Any]] = {
    "backend": BACKENDS,
    "precision": PRECISIONS,
    "cache": CACHES,
    "execution": EXECUTIONS,
}


class Variant(BaseModel):
    """One way to compute attention. Fields are names in the registries of `VARIANT_AXES`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str
    precision: str
    cache: str | None = None  # None where the axis is inactive: only decoding reads a cache
    execution: str = "eager"

    @field_validator("backend", "precision", "cache", "execution")
    @classmethod
    def _known(cls, value: str | None, info: object) -> str | None:
        axis = getattr(info, "field_name", "")
        if value is not None and value not in VARIANT_AXES[axis]:
            known = ", ".join(VARIANT_AXES[axis])
            raise ValueError(f"{axis} must be one of {known}; got {value}")
        return value

    @property
    def key(self) -> str:
        """A readable identity without inactive axes, `flash/bf16/static/eager`."""
        return "/".join(value for value in self.model_dump().values() if value is not None)

    @property
    def rank(self) -> tuple[int, ...]:
        """Sort key from simple to elaborate; ties are given to the simpler variant."""
        return tuple(
            0 if (value := getattr(self, axis)) is None else registry.rank(value)
            for axis, registry in VARIANT_AXES.items()
        )
