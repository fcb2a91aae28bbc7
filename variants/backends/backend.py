"""What a backend is: a function that attends, and the declaration of what it can take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

    from variants.device import DeviceKind
    from variants.score_mods import BoundScoreMod

    # (query, key, value, position of the first query row) -> output, all 4-D with heads second:
    # (batch, q_heads, q_len, head_dim) and (batch, kv_heads, kv_len, head_dim).
    Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]


class Takes(IntEnum):
    """Which score_mods a backend can compute; a larger value includes the smaller ones."""

    PLAIN = 0  # causal attention only
    ADDITIVE = 1  # and a dense additive bias
    ANY = 2  # and anything else


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """What a backend can take on one kind of device."""

    precisions: tuple[str, ...]
    takes: Takes
    grouped_heads: bool  # kv_heads < q_heads without repeating keys and values
    min_capability: tuple[int, int] = (0, 0)
    head_dim_multiple: Mapping[str, int] | None = None  # by precision
    min_head_dim: int = 1
    # Largest head_dim by compute capability, the last entry not above the device's counts.
    max_head_dim: tuple[tuple[tuple[int, int], int], ...] = ()
    needs_triton: bool = False
    needs_cpp_compiler: bool = False


@dataclass(frozen=True, slots=True)
class Attention:
    """What a backend is told once, when a layer is built."""

    mod: BoundScoreMod
    plain: bool  # the score_mod is `none`
    q_heads: int
    kv_heads: int
    head_dim: int
    first_position: int  # no query row before this one will be asked for
    capacity: int  # no key at or behind this one
    # (position, q_len, kv_len) of the calls to come, where they are known.
    calls: tuple[tuple[int, int, int], ...]
    grows: bool  # kv_len differs from call to call
    dtype: torch.dtype
    device: torch.device

    @property
    def grouped(self) -> bool:
        """Whether several query heads share a key/value head."""
        return self.q_heads != self.kv_heads


class Prepared(NamedTuple):
    """A backend ready to attend."""

    attend: Attend
    nbytes: int  # of the biases or masks that it keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One choice of the backend axis."""

    name: str
    summary: str
    support: Mapping[DeviceKind, Support]
    prepare: Callable[[Attention], Prepared]
    # Regular expression that an operator or kernel of a step matches, by device kind: the proof
    # that this backend ran.
    proof: Mapping[DeviceKind, str]
    compiled: bool = False  # through torch.compile, whatever the execution
    searched: bool = True  # False: a baseline, not a choice of the search


class AdditiveBias:
    """The dense bias of all rows to come, built once, as a model does for all of its layers."""

    def __init__(self, attention: Attention) -> None:
        """Build the bias, unless every call is one plain causal row, which sees every key."""
        from variants.score_mods import dense_bias

        self._first = attention.first_position
        self._table: torch.Tensor | None = None
        if attention.plain and all(q_len == 1 for _, q_len, _ in attention.calls):
            return
        self._table = dense_bias(
            attention.mod,
            heads=attention.q_heads,
            rows=range(self._first, attention.capacity),
            kv_len=attention.capacity,
            dtype=attention.dtype,
            device=attention.device,
        )

    @property
    def nbytes(self) -> int:
        """Bytes that the bias holds."""
        return 0 if self._table is None else self._table.untyped_storage().nbytes()

    def of(self, position: int, q_len: int, kv_len: int) -> torch.Tensor | None:
        """Return the bias of `q_len` rows from `position`, `(1, heads or 1, q_len, kv_len)`."""
        if self._table is None:
            return None
        row = position - self._first
        return self._table[:, :, row : row + q_len, :kv_len]
