"""What is decided once for a loaded model, whatever batch it is given."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, field_validator

from variants.axes import VARIANT_AXES
from variants.configuration import inactive_axes
from variants.variant import Variant
from variants.workload import Workload

MODEL_AXES = ("precision", "quantization", "cache", "kv_dtype", "gqa")


class ModelChoice(BaseModel):
    """The axes of a variant that cannot change from batch to batch.

    Weights have one type and one quantization, and a sequence one cache; backend and execution
    may differ with phase, batch and length. None stands where no workload has the axis.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: str
    quantization: str
    cache: str | None = None
    kv_dtype: str | None = None
    gqa: str | None = None

    @field_validator(*MODEL_AXES)
    @classmethod
    def _known(cls, value: str | None, info: object) -> str | None:
        if value is not None:
            VARIANT_AXES[getattr(info, "field_name", "")].registry[value]
        return value

    @classmethod
    def of(cls, variant: Variant) -> Self:
        """Return the model's part of a variant."""
        return cls.model_validate({axis: getattr(variant, axis) for axis in MODEL_AXES})

    def at(self, workload: Workload) -> ModelChoice:
        """Return what is left of the choice for a workload: its active axes."""
        inactive = inactive_axes(workload, dict(self))
        return self.model_copy(update={axis: None for axis in MODEL_AXES if axis in inactive})

    def merged(self, other: ModelChoice) -> ModelChoice | None:
        """Return both choices as one, or None where they contradict each other."""
        found = {}
        for axis in MODEL_AXES:
            ours, theirs = getattr(self, axis), getattr(other, axis)
            if ours is not None and theirs is not None and ours != theirs:
                return None
            found[axis] = theirs if ours is None else ours
        return ModelChoice(**found)

    @property
    def label(self) -> str:
        """The choice in words: `precision bf16, quantization none, cache static`."""
        chosen = self.model_dump(exclude_none=True)
        return ", ".join(f"{axis} {value}" for axis, value in chosen.items())

    @property
    def rank(self) -> tuple[int, ...]:
        """Sort key from simple to elaborate."""
        chosen = {axis: getattr(self, axis) for axis in MODEL_AXES}
        return tuple(
            0 if v is None else VARIANT_AXES[a].registry.rank(v) for a, v in chosen.items()
        )
