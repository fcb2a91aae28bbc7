"""The execution axis: how a layer's operations are launched."""

from __future__ import annotations

from dataclasses import dataclass

from variants.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One choice of the execution axis."""

    name: str
    summary: str


EXECUTIONS = Registry(
    "execution",
    [
        Execution(
            name="eager",
            summary="operation by operation (FlexAttention itself is always compiled)",
        ),
    ],
)
