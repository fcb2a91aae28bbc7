"""The kv_dtype axis: in which numbers a cache keeps keys and values.

A codec turns keys and values into planes, tensors of shape `(batch, kv_heads, tokens, width)`
that a cache stores without knowing what they mean, and planes back into keys and values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from variants.registry import Registry

if TYPE_CHECKING:
    import torch


class KeyValue(NamedTuple):
    """What queries attend to: `(batch, kv_heads, kv_len, head_dim)` each.

    A cache keeps values of another width than keys, too.
    """

    key: torch.Tensor
    value: torch.Tensor


class Scales(NamedTuple):
    """Factors that a codec took out of keys and values, `(batch, kv_heads)` each.

    They come back on the query, since q · (k · s) = (q · s) · k, and on the output.
    """

    key: torch.Tensor
    value: torch.Tensor
    # The same numbers in float32, for kernels that apply them themselves.
    key_float: torch.Tensor
    value_float: torch.Tensor

    @staticmethod
    def by_head(scale: torch.Tensor, q_heads: int) -> torch.Tensor:
        """Return the factor of each query head, `(batch, q_heads, 1, 1)`."""
        groups = q_heads // scale.shape[1]
        return scale.repeat_interleave(groups, dim=1)[:, :, None, None]


class PlaneSpec(NamedTuple):
    """Element type and last dimension of one plane."""

    dtype: torch.dtype
    width: int


class Codec(ABC):
    """Encodes keys and values of one layer."""

    scales: Scales | None = None  # what is taken out of keys and values, of whole sequences

    def __init__(
        self,
        batch: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        value_dim: int | None = None,
    ) -> None:
        """Prepare for keys and values of `dtype`; values are as wide as keys if not said."""
        self.head_dim, self._dtype = head_dim, dtype
        self.value_dim = head_dim if value_dim is None else value_dim

    @abstractmethod
    def planes(self) -> tuple[PlaneSpec, ...]:
        """Return what has to be stored of each token."""

    def calibrate(  # noqa: B027 - most codecs need none
        self, sequence: int, key: torch.Tensor, value: torch.Tensor
    ) -> None:
        """See the context of one sequence, `(1, kv_heads, tokens, head_dim)`, before `encode`."""

    @abstractmethod
    def encode(
        self, key: torch.Tensor, value: torch.Tensor, sequence: int | None = None
    ) -> list[torch.Tensor]:
        """Return the planes of new tokens, of the whole batch or of one sequence of it."""

    @abstractmethod
    def decode(self, planes: Sequence[torch.Tensor]) -> KeyValue:
        """Return keys and values in the layer's type, but for their scales."""

    @property
    def nbytes(self) -> int:
        """Bytes of what it keeps beside the planes: scales of whole sequences."""
        return sum(scale.nbytes for scale in self.scales or ())


class SameCodec(Codec):
    """Keeps keys and values as they are."""

    def planes(self) -> tuple[PlaneSpec, ...]:
        return (
            PlaneSpec(self._dtype, self.head_dim),
            PlaneSpec(self._dtype, self.value_dim),
        )

    def encode(
        self, key: torch.Tensor, value: torch.Tensor, sequence: int | None = None
    ) -> list[torch.Tensor]:
        return [key, value]

    def decode(self, planes: Sequence[torch.Tensor]) -> KeyValue:
        return KeyValue(planes[0], planes[1])


class Int8Codec(Codec):
    """Symmetric int8 with a scale in the layer's type for each token and head.

    Per token as KIVI keeps values (arXiv:2402.02750); its keys per channel need whole blocks of
    tokens, which a cache that grows by one does not have.
    """

    def planes(self) -> tuple[PlaneSpec, ...]:
        import torch

        scale = PlaneSpec(self._dtype, 1)
        return (
            PlaneSpec(torch.int8, self.head_dim),
            scale,
            PlaneSpec(torch.int8, self.value_dim),
            scale,
        )

    def encode(
        self, key: torch.Tensor, value: torch.Tensor, sequence: int | None = None
    ) -> list[torch.Tensor]:
        return [*self._int8(key), *self._int8(value)]

    def decode(self, planes: Sequence[torch.Tensor]) -> KeyValue:
        key, key_scale, value, value_scale = planes
        # In place: a second copy of the whole cache would be the peak of the step.
        return KeyValue(
            key.to(self._dtype).mul_(key_scale), value.to(self._dtype).mul_(value_scale)
        )

    def _int8(self, tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        numbers = tensor.float()
        # A row of zeros keeps a scale, so that nothing is divided by zero. Numbers are divided by
        # the scale as it is stored, so that its own rounding costs nothing.
        least = torch.finfo(self._dtype).tiny
        scale = (numbers.abs().amax(dim=-1, keepdim=True) / 127).to(self._dtype).clamp(min=least)
        return (numbers / scale.float()).round().clamp(-127, 127).to(torch.int8), scale


class Fp8Codec(Codec):
    """float8_e4m3 with a scale for each sequence and head, set by the context.

    The largest number of the context comes to lie between a quarter and a half of the format's
    largest, so that later tokens have room; what is larger still is clamped. A floating-point
    type loses nothing by that. Scales are powers of two, so that applying them rounds nothing.
    """

    def __init__(
        self,
        batch: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        value_dim: int | None = None,
    ) -> None:
        """Prepare for keys and values of `dtype`; `calibrate` sets the scales."""
        import torch

        super().__init__(batch, kv_heads, head_dim, dtype, device, value_dim=value_dim)
        rounded, exact = (
            torch.ones(2, batch, kv_heads, dtype=kind, device=device)
            for kind in (dtype, torch.float32)
        )
        self.scales: Scales = Scales(*rounded, *exact)

    def planes(self) -> tuple[PlaneSpec, ...]:
        import torch

        kind = torch.float8_e4m3fn
        return (PlaneSpec(kind, self.head_dim), PlaneSpec(kind, self.value_dim))

    def calibrate(self, sequence: int, key: torch.Tensor, value: torch.Tensor) -> None:
        import torch

        half = torch.finfo(torch.float8_e4m3fn).max / 2
        key_scale, value_scale, key_float, value_float = self.scales
        for held, tensor in (((key_scale, key_float), key), ((value_scale, value_float), value)):
            most = tensor.float().abs().amax(dim=(0, 2, 3)).clamp(min=2.0**-6)
            for scale in held:
                scale[sequence] = torch.exp2(torch.ceil(torch.log2(most / half)))

    def encode(
        self, key: torch.Tensor, value: torch.Tensor, sequence: int | None = None
    ) -> list[torch.Tensor]:
        own = slice(None) if sequence is None else slice(sequence, sequence + 1)
        scales = self.scales
        return [_fp8(key, scales.key[own]), _fp8(value, scales.value[own])]

    def decode(self, planes: Sequence[torch.Tensor]) -> KeyValue:
        return KeyValue(planes[0].to(self._dtype), planes[1].to(self._dtype))


def _fp8(tensor: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    import torch

    most = torch.finfo(torch.float8_e4m3fn).max
    # Converting does not saturate everywhere: above the largest number stands NaN.
    scaled = (tensor.float() / scale[:, :, None, None].float()).clamp(-most, most)
    return scaled.to(torch.float8_e4m3fn)


@dataclass(frozen=True, slots=True, kw_only=True)
class KvDtype:
    """One choice of the kv_dtype axis."""

    name: str
    summary: str
    codec: type[Codec]
    bits: int | None = None  # of a stored element; None: those of the precision
    scale_a_token: bool = False  # one more number of the precision for each token and head


KV_DTYPES = Registry(
    "kv_dtype",
    [
        KvDtype(name="same", summary="the variant's precision", codec=SameCodec),
        KvDtype(
            name="int8",
            summary="int8, a scale for each token and head; made whole again when read",
            codec=Int8Codec,
            bits=8,
            scale_a_token=True,
        ),
        KvDtype(
            name="fp8",
            summary="float8_e4m3, a scale for each sequence and head; read by flex and fa3",
            codec=Fp8Codec,
            bits=8,
        ),
    ],
)
