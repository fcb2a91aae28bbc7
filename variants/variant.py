"""The variant: how a workload is computed, one choice for each decision."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, create_model, field_validator

from variants.axes import VARIANT_AXES
from variants.backends import BACKENDS
from variants.executions import EXECUTIONS

_Model = TypeVar("_Model", bound=BaseModel)


def _with_field_for_each_axis(model: type[_Model]) -> type[_Model]:
    """Add the fields of the axes that some backends alone have: these read them by `Axis.of`."""
    fields: dict[str, Any] = {
        axis: (str | None, None) for axis in VARIANT_AXES if axis not in model.model_fields
    }
    return create_model(
        model.__name__,
        __base__=model,
        __doc__=model.__doc__,
        __module__=model.__module__,
        **fields,
    )


class OwnKernel(NamedTuple):
    """A kernel that is not its backend's own, and whose choice it is."""

    choice: str  # `tiles flash`
    pattern: str  # regular expression that its name in a profile matches


@_with_field_for_each_axis
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

    @field_validator("*")
    @classmethod
    def _known(cls, value: str | None, info: object) -> str | None:
        axis = getattr(info, "field_name", "")
        registry = VARIANT_AXES[axis].registry
        if value is not None and value not in registry:
            raise ValueError(f"{axis} must be one of {', '.join(registry)}; got {value}")
        return value

    @property
    def choices(self) -> dict[str, str | None]:
        """The choice of each axis, None where one is inactive."""
        return dict(self)

    @property
    def key(self) -> str:
        """A readable identity without inactive axes, `flash/bf16/none/static/same/eager`.

        An axis that some backends alone have is part of it where it is not at its default: what
        was measured before there was such an axis keeps its identity.
        """
        values = (
            value
            for axis, value in self
            if not (VARIANT_AXES[axis].backends and value == VARIANT_AXES[axis].default)
        )
        return "/".join(value for value in values if value is not None)

    @property
    def compiles(self) -> bool:
        """Whether torch.compile is part of it."""
        return BACKENDS[self.backend].compiled or EXECUTIONS[self.execution].compiles

    @property
    def own_kernel(self) -> OwnKernel | None:
        """What a choice of an axis runs in place of its backend's kernel; None without one."""
        for name, axis in VARIANT_AXES.items():
            entry = axis.of(self)
            if entry is None or axis.kernel is None:
                continue
            if (pattern := axis.kernel(entry)) is not None:
                return OwnKernel(f"{name} {entry.name}", pattern)
        return None

    @property
    def rank(self) -> tuple[int, ...]:
        """Sort key from simple to elaborate; ties are given to the simpler variant."""
        return tuple(
            0 if value is None else VARIANT_AXES[axis].registry.rank(value) for axis, value in self
        )
