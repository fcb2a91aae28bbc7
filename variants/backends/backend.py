"""What a backend is: a function that attends, and the declaration of what it can take."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

    from variants.axis import VariantAxis
    from variants.caches import StepPosition
    from variants.device import DeviceKind
    from variants.kv_dtypes import KeyValue
    from variants.score_mods import BoundScoreMod


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
    backward: bool = True
    inlined: bool = True  # torch.compile can take it together with its layer
    paged: bool = False  # keys and values through a block table
    # By kv_dtype, the precisions of queries with which it is read as it is stored.
    reads_stored: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reads_stored_capability: tuple[int, int] = (0, 0)
    min_capability: tuple[int, int] = (0, 0)
    head_dim_multiple: Mapping[str, int] | None = None  # by precision
    min_head_dim: int = 1
    # Largest head_dim by compute capability, the last entry not above the device's counts.
    max_head_dim: tuple[tuple[tuple[int, int], int], ...] = ()
    needs_triton: bool = False
    needs_cpp_compiler: bool = False

    def reads(
        self, kv_dtype: str | None, precision: str, capability: tuple[int, int] | None
    ) -> bool:
        """Tell whether keys and values are taken as a cache stores them."""
        precisions = self.reads_stored.get(kv_dtype or "", ())
        return precision in precisions and (capability or (0, 0)) >= self.reads_stored_capability


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """What a backend is told once, when a layer is built."""

    mod: BoundScoreMod
    plain: bool  # the score_mod is `none`
    batch: int
    q_heads: int
    kv_heads: int
    head_dim: int
    scale: float  # of the scores, usually 1/√head_dim
    # Of the calls to come; the first has the lowest position of all. Empty where none is known.
    places: tuple[StepPosition, ...]
    capacity: int  # no query row at or behind this position
    kv_capacity: int  # no more keys than this
    grows: bool  # kv_len differs from call to call
    paged: bool  # keys and values come from a pool that all sequences share
    trains: bool  # gradients will be asked for
    inlined: bool  # a compiler takes the whole layer, this backend included
    dtype: torch.dtype
    device: torch.device
    # A `Variant`, whose module stands higher: `AXIS.of(attention.variant)` is what was chosen.
    variant: object

    @property
    def grouped(self) -> bool:
        """Whether several query heads share a key/value head."""
        return self.q_heads != self.kv_heads

    @property
    def first_position(self) -> int:
        """No query row before this one will be asked for."""
        return self.places[0].position if self.places else 0

    @property
    def unmasked(self) -> bool:
        """Whether every call is one plain causal row that sees every key it is given."""
        return bool(self.places) and all(map(self.sees_all, self.places))

    def sees_all(self, place: StepPosition) -> bool:
        """Tell whether a call is one plain causal row that sees every key it is given."""
        return (
            self.plain
            and place.visible is None
            and place.q_len == 1
            and place.kv_len == place.position + 1
        )


class Prepared(ABC):
    """A backend ready to attend.

    What a step needs to know beside query, key and value is its mask. It is made outside of what
    a compiler sees, or, of one row over the whole buffer, from a position that only the device
    knows.
    """

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of the biases or masks that are kept."""

    @abstractmethod
    def mask(self, place: StepPosition) -> Any:
        """Return what `attend` needs for a step at `place`."""

    @abstractmethod
    def mask_at(self, position: torch.Tensor) -> Any:
        """Return the same for one row at `position`, `(1,)` on the device."""

    @abstractmethod
    def attend(self, query: torch.Tensor, kv: KeyValue, mask: Any) -> torch.Tensor:
        """Return the output, of the query's shape `(batch, q_heads, q_len, head_dim)`."""


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
    holds_scores: bool = False  # the score matrix exists in memory
    skips_hidden: bool = False  # keys that a mask hides from all rows are not read
    plans_each_shape: bool = False  # what it prepares for a new shape outlives the layer
    whole_buffer: bool = False  # its mask skips what is not valid: no slices, no new shapes
    # Of torch.compile, where the whole layer is compiled.
    inductor_options: Mapping[DeviceKind, Mapping[str, Any]] = field(default_factory=dict)
    searched: bool = True  # False: a baseline, not a choice of the search
    axes: tuple[VariantAxis[Any], ...] = ()  # that other backends do not have


# So that a profiler sees Inductor's kernels on a CPU by name.
NAMED_CPU_KERNELS: dict[str, Any] = {"cpp.enable_kernel_profile": True}
# Inductor's pattern matcher knows softmax(QKᵀ)V and would put a fused SDPA in its place.
AS_WRITTEN: dict[str, Any] = {"pattern_matcher": False}


class AdditiveBias:
    """The dense bias of all rows to come, built once, as a model does for all of its layers.

    Where no call is known ahead, that of the last call is kept: the layers of a model make the
    same one in turn. Threads may call it: what is returned was made for the place it is asked for.
    """

    def __init__(self, attention: Attention) -> None:
        """Build the bias, unless no row needs one or none is known."""
        self._attention = attention
        self._first = attention.first_position
        self._table: torch.Tensor | None = None
        self._kv_len = attention.kv_capacity
        self._last: LastCall | None = None
        if attention.places and not attention.unmasked:
            self._table = self._dense(range(self._first, attention.capacity), self._kv_len)

    def _dense(self, rows: range, kv_len: int) -> torch.Tensor:
        from variants.score_mods import dense_bias

        attention = self._attention
        return dense_bias(
            attention.mod,
            heads=attention.q_heads,
            rows=rows,
            kv_len=kv_len,
            dtype=attention.dtype,
            device=attention.device,
        )

    @property
    def nbytes(self) -> int:
        """Bytes that the bias holds."""
        last = self._last
        kept = self._table if last is None else last.made
        return 0 if kept is None else kept.nbytes

    def of(self, place: StepPosition) -> torch.Tensor | None:
        """Return the bias of a step's rows, `(batch or 1, heads or 1, q_len, kv_len)`."""
        if self._attention.sees_all(place):
            return None
        if self._table is None or place.visible is not None:
            return self._of_last(place)
        row = place.position - self._first
        return self._table[:, :, row : row + place.q_len, : place.kv_len]

    def _of_last(self, place: StepPosition) -> torch.Tensor:
        last = self._last  # read once: another thread may put its own there at any time
        written = times_written(place.visible)
        if last is not None and last.serves(place, written):
            made: torch.Tensor = last.made
            return made
        from variants.score_mods import visible_bias

        if place.visible is None:
            rows = range(place.position, place.position + place.q_len)
            bias = self._dense(rows, place.kv_len)[..., : place.kv_len]
        else:
            bias = visible_bias(
                self._attention.mod,
                heads=self._attention.q_heads,
                rows=place.rows(self._attention.device),
                visible=place.visible,
                dtype=self._attention.dtype,
            )
        self._last = LastCall(place, written, bias)
        return bias

    def at(self, position: torch.Tensor) -> torch.Tensor | None:
        """Return the bias of the row at `position`, `(1,)`, over all keys."""
        if self._table is None:
            return None
        return self._table.index_select(2, position - self._first)[..., : self._kv_len]


class LastCall(NamedTuple):
    """A bias or mask, and the call that it was made for: one value, that threads swap whole."""

    place: StepPosition
    written: int | None  # how often its mask had been written then
    made: Any

    def serves(self, place: StepPosition, written: int | None) -> bool:
        """Tell whether another call needs the same. Masks are compared by identity."""
        own = self.place
        return (
            written is not None
            and own.visible is place.visible
            and self.written == written
            and own[:3] == place[:3]
        )


def times_written(visible: torch.Tensor | None) -> int | None:
    """Return how often a mask was written in place; None where PyTorch does not count it.

    A mask that its owner changes is another mask. Tensors of inference mode have no count: what
    was made of one serves that call alone.
    """
    if visible is None:
        return 0
    return None if visible.is_inference() else visible._version
