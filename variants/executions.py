"""The execution axis: how a layer's operations are launched."""

from __future__ import annotations

from dataclasses import dataclass

from variants.device import DeviceKind
from variants.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One choice of the execution axis."""

    name: str
    summary: str
    devices: tuple[DeviceKind, ...] = ("cpu", "cuda")
    compiles: bool = False  # the whole layer, through torch.compile
    captures: bool = False  # one step into a CUDA graph, replayed from then on


EXECUTIONS = Registry(
    "execution",
    [
        Execution(
            name="eager",
            summary="operation by operation (FlexAttention itself is always compiled)",
        ),
        Execution(
            name="compiled",
            summary="the layer through torch.compile, once for all lengths",
            compiles=True,
        ),
        Execution(
            name="cuda_graph",
            summary="a captured step, replayed; lengths are held on the device",
            devices=("cuda",),
            captures=True,
        ),
    ],
)
