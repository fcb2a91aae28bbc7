"""The backend axis: how softmax(QKᵀ)V is computed. A new backend is one entry in one file."""

import re
from collections.abc import Iterable

from variants.backends.backend import Attention, Backend, Support, Takes
from variants.backends.cudnn_graph import CUDNN_GRAPH
from variants.backends.eager import EAGER
from variants.backends.fa3 import FA3
from variants.backends.flex import FLEX
from variants.backends.sdpa import AUTO, CUDNN, EFFICIENT, FLASH, MATH
from variants.device import DeviceKind
from variants.registry import Registry

__all__ = ["BACKENDS", "Attention", "Backend", "Support", "Takes", "backend_that_ran"]

BACKENDS = Registry(
    "backend", [AUTO, EAGER, MATH, FLASH, EFFICIENT, CUDNN, FLEX, FA3, CUDNN_GRAPH]
)


def backend_that_ran(
    kernels: Iterable[str],
    kind: DeviceKind,
    asked: str | None = None,
    own_kernel: str | None = None,
) -> str | None:
    """Return the backend whose proof is among the names of a step's operators and kernels.

    From elaborate to simple, since the simple ones are made of operators that others use too. A
    plugin's is looked for only where it was `asked` for: its proof may match more than it should.
    `own_kernel` stands for the proof of the one that was asked for (`Variant.own_kernel`), and
    comes first: another backend may run the same kernel.
    """
    names = tuple(kernels)
    if own_kernel is not None and any(re.search(own_kernel, name) for name in names):
        return asked
    for backend in reversed(list(BACKENDS.values())):
        if backend.name in BACKENDS.added and backend.name != asked:
            continue
        if backend.name == asked and own_kernel is not None:
            continue
        pattern = backend.proof.get(kind)
        if pattern is not None and any(re.search(pattern, name) for name in names):
            return backend.name
    return None
