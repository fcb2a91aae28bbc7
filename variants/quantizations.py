"""The quantization axis: how the q/k/v/o projections are stored and multiplied.

Attention itself is not touched: QKᵀ and PV stay in the variant's precision.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from variants.device import DeviceKind
from variants.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import nn


class QuantizationError(RuntimeError):
    """A projection was not replaced by a quantized one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """One choice of the quantization axis."""

    name: str
    summary: str
    quantize: Callable[[nn.Linear], nn.Module] | None  # None leaves projections as they are
    weight_bits: int | None = None  # None: those of the precision
    multiplies_quantized: bool = False  # products of 8-bit numbers, not only storage
    needs_torchao: bool = False
    precisions: tuple[str, ...] = ("fp32", "tf32", "bf16", "fp16")
    devices: tuple[DeviceKind, ...] = ("cpu", "cuda")
    min_capability: tuple[int, int] = (0, 0)
    features_multiple: int = 1  # of in_features and out_features, on CUDA
    refused_weight: tuple[int, int] | None = None  # (out_features, in_features), on CUDA
    min_rows: int = 1  # tokens that pass a projection in one step, on CUDA
    compilable: bool = True  # by torch.compile
    capturable: bool = True  # in a CUDA graph
    # Regular expression that a kernel of a step matches, by device kind, where products are
    # quantized: libraries fall back to products of float32 in silence.
    proof: Mapping[DeviceKind, str] = field(default_factory=dict)

    def proven_by(self, kernels: Iterable[str], kind: DeviceKind) -> bool:
        """Tell whether the kernels of a step show that quantized products ran, where any must."""
        pattern = self.proof.get(kind)
        return pattern is None or any(re.search(pattern, name) for name in kernels)


def quantize_projections(layer: nn.Module, names: tuple[str, ...], quantization: str) -> None:
    """Replace the named `nn.Linear` children of `layer` by quantized ones.

    Raises:
        QuantizationError: A child is what it was before.
        ImportError: The library is not installed.
    """
    entry = QUANTIZATIONS[quantization]
    if entry.quantize is None:
        return
    for name in names:
        before = layer.get_submodule(name)
        elements, stored = projection_elements(before), projection_bytes(before)
        after = entry.quantize(before)  # type: ignore[arg-type]
        assert entry.weight_bits is not None
        # Scales come on top of the weight, a few for each row.
        if projection_bytes(after) >= stored or projection_bytes(after) * 8 < (
            elements * entry.weight_bits
        ):
            raise QuantizationError(f"{quantization} left {name} as {type(after).__name__}")
        setattr(layer, name, after)


def projection_elements(projection: nn.Module) -> int:
    """Return the number of weights of a projection."""
    return int(projection.in_features * projection.out_features)  # type: ignore[operator]


def projection_bytes(projection: nn.Module) -> int:
    """Return the bytes that a projection's weight takes, quantized or not, scales included."""
    weight: Any = projection.weight
    return _bytes(weight() if callable(weight) else weight)  # packed modules have a method


def _bytes(tensor: Any) -> int:
    """Return the bytes behind a tensor; of a subclass, those of its parts."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return sum(_bytes(getattr(tensor, name)) for name in names)
    if tensor.is_quantized:
        return int(tensor.numel() * tensor.element_size())
    return int(tensor.nbytes)


@contextmanager
def _quietly() -> Iterator[None]:
    """Hide torchao's warnings about kernels and types that are not used here."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _torchao(config_name: str, **options: Any) -> Callable[[nn.Linear], nn.Module]:
    def quantize(linear: nn.Linear) -> nn.Module:
        from torch import nn

        with _quietly():
            from torchao import quantization

            config = getattr(quantization, config_name)(**options)
            holder = nn.Sequential(linear)
            quantization.quantize_(holder, config)
        return holder[0]

    return quantize


def _ptdq(linear: nn.Linear) -> nn.Module:
    import torch
    from torch import nn

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still there
        replaced = torch.ao.quantization.quantize_dynamic(
            nn.Sequential(linear), {nn.Linear}, dtype=torch.qint8
        )
    projection: nn.Module = replaced[0]
    return projection


QUANTIZATIONS = Registry(
    "quantization",
    [
        Quantization(name="none", summary="projections in the variant's precision", quantize=None),
        Quantization(
            name="int8_weight_only",
            summary="int8 weights, a scale for each row; activations as they are (torchao)",
            # Off: it would set Inductor's options for the whole process.
            quantize=_torchao("Int8WeightOnlyConfig", set_inductor_config=False),
            weight_bits=8,
            needs_torchao=True,
        ),
        Quantization(
            name="int8_dynamic",
            summary="int8 weights, and activations rounded to int8 token by token (torchao)",
            quantize=_torchao("Int8DynamicActivationInt8WeightConfig", set_inductor_config=False),
            weight_bits=8,
            multiplies_quantized=True,
            needs_torchao=True,
            # torch._int_mm's. Compiled, it raises; else torchao multiplies in float32, or in int32
            # on the host.
            features_multiple=8,
            min_rows=17,
            # torchao 0.18 prints its input to look for a word, which reads it back to the host: in
            # a capture an error that leaves the context unusable, else milliseconds.
            capturable=False,
            proof={"cuda": r"gemm_s8|gemm_i8|imma|igemm"},
        ),
        Quantization(
            name="fp8_weight_only",
            summary="float8 weights, a scale for each row; activations as they are (torchao)",
            quantize=_torchao("Float8WeightOnlyConfig", set_inductor_config=False),
            weight_bits=8,
            needs_torchao=True,
        ),
        Quantization(
            name="fp8_dynamic",
            summary="float8 weights, and activations rounded to float8 (torchao)",
            quantize=_torchao(
                "Float8DynamicActivationFloat8WeightConfig", set_inductor_config=False
            ),
            weight_bits=8,
            multiplies_quantized=True,
            needs_torchao=True,
            devices=("cuda",),
            min_capability=(8, 9),
            features_multiple=16,
            # torchao 0.18 takes a weight with one scale for the scales of blocks, if it is of a
            # block's size.
            refused_weight=(128, 128),
            proof={"cuda": r"^aten::_scaled_mm$"},
        ),
        Quantization(
            name="ptdq_int8",
            summary="torch.ao's deprecated dynamic quantization, of float32 on a CPU",
            quantize=_ptdq,
            weight_bits=8,
            multiplies_quantized=True,
            precisions=("fp32",),
            devices=("cpu",),
            compilable=False,
            proof={"cpu": r"^quantized::linear_dynamic$"},
        ),
    ],
)


def dry_run(quantization: str, device: torch.device) -> str:
    """Quantize one projection and run it. Returns why it failed, or nothing.

    Only what is missing or refused by the installed versions is found out here.
    """
    import torch
    from torch import nn

    entry = QUANTIZATIONS[quantization]
    dtype = torch.float32 if entry.precisions == ("fp32",) else torch.bfloat16
    holder = nn.Module()
    holder.projection = nn.Linear(64, 64, bias=False, device=device, dtype=dtype)
    try:
        with _quietly(), torch.inference_mode():
            quantize_projections(holder, ("projection",), quantization)
            out = holder.projection(torch.ones(32, 64, device=device, dtype=dtype))
        if out.shape != (32, 64) or not bool(torch.isfinite(out).all()):
            return "it returned no finite numbers"
    except Exception as error:  # whatever a library raises here, the answer is no
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return lines[0][:200]
    return ""
