"""The variant: how a workload is computed, one choice for each decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from variants.backends import BACKENDS
from variants.caches import CACHES
from variants.executions import EXECUTIONS
from variants.gqa import GQA
from variants.kv_dtypes import KV_DTYPES
from variants.precisions import PRECISIONS
from variants.quantizations import QUANTIZATIONS
from variants.registry import Registry

VARIANT_AXES: Mapping[str, Registry[Any]] = {
    "backend": BACKENDS,
    "precision": PRECISIONS,
    "quantization": QUANTIZATIONS,
    "cache": CACHES,
    "kv_dtype": KV_DTYPES,
    "gqa": GQA,
    "execution": EXECUTIONS,
}


class Variant(BaseModel):
    """One way to compute attention. Fields are names in the registries of `VARIANT_AXES`.

    None stands where an axis is inactive; `variants.configuration` knows where that is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str
    precision: str
    quantization: str = "none"  # of the projections
    cache: str | None = None
    kv_dtype: str | None = None
    gqa: str | None = None
    execution: str = "eager"

    @field_validator(*VARIANT_AXES)
    @classmethod
    def _known(cls, value: str | None, info: object) -> str | None:
        axis = getattr(info, "field_name", "")
        if value is not None and value not in VARIANT_AXES[axis]:
            known = ", ".join(VARIANT_AXES[axis])
            raise ValueError(f"{axis} must be one of {known}; got {value}")
        return value

    @property
    def key(self) -> str:
        """A readable identity without inactive axes, `flash/bf16/none/static/same/eager`."""
        values = (getattr(self, axis) for axis in VARIANT_AXES)
        return "/".join(value for value in values if value is not None)

    @property
    def compiles(self) -> bool:
        """Whether torch.compile is part of it."""
        return BACKENDS[self.backend].compiled or EXECUTIONS[self.execution].compiles

    @property
    def rank(self) -> tuple[int, ...]:
        """Sort key from simple to elaborate; ties are given to the simpler variant."""
        return tuple(
            0 if (value := getattr(self, axis)) is None else registry.rank(value)
            for axis, registry in VARIANT_AXES.items()
        )
