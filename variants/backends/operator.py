"""Kernels of packages as operators of PyTorch: a profiler sees them, a compiler passes them by."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAMESPACE = "goldilocks"


@functools.cache
def _library() -> torch.library.Library:
    import torch

    return torch.library.Library(NAMESPACE, "FRAGMENT")


def define_operator(
    schema: str, compute: Callable[..., torch.Tensor], fake: Callable[..., torch.Tensor]
) -> Callable[..., torch.Tensor]:
    """Return an operator of its own, `goldilocks::name`, without gradients.

    Args:
        schema: Its name and signature, `fa3(Tensor query, …) -> Tensor`.
        compute: Does the work; must return a new tensor.
        fake: Returns an empty tensor of the result's shape, type and strides.
    """
    import torch

    name = schema.partition("(")[0]
    # Strides count: a kernel that reads a cache in place must be given the cache itself.
    _library().define(schema, tags=(torch.Tag.needs_exact_strides,))
    _library().impl(name, compute, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake)
    operator: Any = getattr(getattr(torch.ops, NAMESPACE), name)
    return operator.default  # type: ignore[no-any-return]
