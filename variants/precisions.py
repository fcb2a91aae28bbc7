"""The precision axis: the type of weights and activations, and how float32 is multiplied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from variants.device import DeviceKind
from variants.registry import Registry

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """One choice of the precision axis."""

    name: str
    summary: str
    dtype_name: str  # of weights, activations and cache
    bits: int
    # float32 matmul precision in PyTorch's words; None leaves the process's setting alone.
    matmul: Literal["highest", "high"] | None = None
    devices: tuple[DeviceKind, ...] = ("cpu", "cuda")
    min_capability: tuple[int, int] | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The torch type; imports torch."""
        import torch

        dtype = getattr(torch, self.dtype_name)
        assert isinstance(dtype, torch.dtype)
        return dtype

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Set the float32 matmul precision inside the block and restore it afterwards."""
        if self.matmul is None:
            yield
            return
        import torch

        # The one API that keeps PyTorch's old and new switches consistent, so that
        # Inductor (which reads the old one) and cuBLAS agree.
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.matmul)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def settle_matmul_precision() -> None:
    """Set the process's float32 matmul precision to what it is.

    In the key of Inductor's graphs a precision that nobody ever set is another one than the same
    set and restored, as by `Precision.applied`. Processes that share its cache all have it set.
    """
    import torch

    torch.set_float32_matmul_precision(torch.get_float32_matmul_precision())


PRECISIONS = Registry(
    "precision",
    [
        Precision(
            name="fp32",
            summary="IEEE float32, multiplied as float32",
            dtype_name="float32",
            bits=32,
            matmul="highest",
        ),
        Precision(
            name="tf32",
            summary="float32 storage, TensorFloat-32 products",
            dtype_name="float32",
            bits=32,
            matmul="high",
            devices=("cuda",),
            min_capability=(8, 0),
        ),
        Precision(
            name="bf16",
            summary="bfloat16 weights, activations and cache",
            dtype_name="bfloat16",
            bits=16,
            min_capability=(8, 0),
        ),
        Precision(
            name="fp16",
            summary="float16 weights, activations and cache",
            dtype_name="float16",
            bits=16,
        ),
    ],
)
