"""The cache axis: where the keys and values of past tokens are kept while decoding.

A cache stores planes (`variants.kv_dtypes`): numbers of shape `(batch, kv_heads, tokens, width)`.
A step asks for its `StepPosition` first, on the host; then `write` puts the new tokens there and
returns what the step attends to. `write` touches tensors only, so that a compiler can take it
whole.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from variants.registry import Registry

if TYPE_CHECKING:
    import torch

    from variants.kv_dtypes import PlaneSpec

PAGE = 128  # tokens; FlexAttention's default sparse block, so that a page is a block


class CacheOverflowError(RuntimeError):
    """A token was appended to a cache that is full."""


class StepPosition(NamedTuple):
    """Which rows and keys a step has, counted in tokens, and where its new token is written."""

    position: int  # of the first query row among the keys that the backend is given
    q_len: int
    kv_len: int  # keys that the backend is given, those that are not valid yet included
    # Where the new token is written. On the device, `(1,)`, where a compiler or a CUDA graph would
    # take a number of the host for a constant.
    slot: int | torch.Tensor = 0
    # Of a paged cache: the page table, and each page's place in its sequence.
    table: torch.Tensor | None = None
    owner: torch.Tensor | None = None
    # Which keys each row sees, where a caller says it instead of the score_mod: of booleans,
    # `(batch or 1, 1, q_len, keys in order)`.
    visible: torch.Tensor | None = None
    # Of one row whose position only the device knows, `(1,)`; `position` says nothing then.
    at: torch.Tensor | None = None

    def rows(self, device: torch.device) -> torch.Tensor:
        """Return the positions of the query rows, `(q_len, 1)`."""
        import torch

        first = self.position if self.at is None else self.at
        return torch.arange(self.q_len, device=device)[:, None] + first


class CacheShape(NamedTuple):
    """The sizes that a cache is built for."""

    batch: int
    kv_heads: int
    capacity: int  # tokens of a sequence
    window: int | None = None  # keys that are ever needed; None for all
    whole: bool = False  # give the backend the whole buffer, and let its mask hide the rest


class KVCache(ABC):
    """Keys and values of the tokens seen so far, as planes."""

    def __init__(
        self, specs: Sequence[PlaneSpec], shape: CacheShape, length: int, device: torch.device
    ) -> None:
        """Allocate room for what `shape` says, or for `length` tokens where it grows."""
        import torch

        self.shape, self.length, self.device = shape, length, device
        tokens = self.allocated(shape, length)
        self.planes = [
            torch.zeros(*self._leading(shape), tokens, spec.width, dtype=spec.dtype, device=device)
            for spec in specs
        ]
        self._mark = length

    @staticmethod
    def _leading(shape: CacheShape) -> tuple[int, ...]:
        return shape.batch, shape.kv_heads

    @staticmethod
    @abstractmethod
    def allocated(shape: CacheShape, length: int) -> int:
        """Return how many tokens' room is allocated when the cache holds `length`."""

    @classmethod
    @abstractmethod
    def place_of(cls, shape: CacheShape, length: int) -> StepPosition:
        """Return the place of a step that appends one token to `length`."""

    @staticmethod
    @abstractmethod
    def write(
        planes: list[torch.Tensor], new: Sequence[torch.Tensor], place: StepPosition
    ) -> list[torch.Tensor]:
        """Store one new token and return the planes to attend to; items of `planes` may change."""

    def append(self, new: Sequence[torch.Tensor], place: StepPosition) -> list[torch.Tensor]:
        """Do what `write` does, launched operation by operation: no compiler looks at it."""
        return self.write(self.planes, new, place)

    def place(self) -> StepPosition:
        """Return the place of the next token.

        Raises:
            CacheOverflowError: There is no room for it.
        """
        if self.length >= self.shape.capacity:
            raise CacheOverflowError(
                f"the cache has room for {self.shape.capacity} tokens and holds {self.length}; "
                f"1 more does not fit"
            )
        return self.place_of(self.shape, self.length)

    def fill(self, sequence: int, new: Sequence[torch.Tensor]) -> None:
        """Store the context of one sequence, planes of `(1, kv_heads, length, width)`."""
        for plane, tokens in zip(self.planes, new, strict=True):
            plane[sequence, :, : self.length] = tokens[0]

    def mark(self, steps: int) -> None:
        """Remember this state, to which `rewind` returns after at most `steps` steps."""
        self._mark = self.length

    def rewind(self) -> None:
        """Forget all tokens since `mark`."""
        self.length = self._mark

    @property
    def nbytes(self) -> int:
        """Bytes that the cache holds now."""
        return sum(plane.nbytes for plane in self.planes)


class ConcatCache(KVCache):
    """Grows by `torch.cat`: never larger than needed, but old and new exist at once in a step."""

    @staticmethod
    def allocated(shape: CacheShape, length: int) -> int:
        return length

    @classmethod
    def place_of(cls, shape: CacheShape, length: int) -> StepPosition:
        return StepPosition(length, 1, length + 1)

    @staticmethod
    def write(
        planes: list[torch.Tensor], new: Sequence[torch.Tensor], place: StepPosition
    ) -> list[torch.Tensor]:
        import torch

        for index, tokens in enumerate(new):
            # One after the other, so that an old plane is gone before the next is copied.
            planes[index] = torch.cat([planes[index], tokens], dim=2)
        return list(planes)

    def rewind(self) -> None:
        import torch

        super().rewind()
        # Copies, not views: a view would keep the longer tensor alive.
        self.planes = [
            plane[:, :, : self.length].clone(memory_format=torch.contiguous_format)
            for plane in self.planes
        ]


class StaticCache(KVCache):
    """Allocated once at full capacity; a step writes in place and attends to a slice."""

    @staticmethod
    def allocated(shape: CacheShape, length: int) -> int:
        # One more: a slice that fills its buffer is contiguous, and compiled attention would
        # recompile for it at the last token.
        return shape.capacity + 1

    @classmethod
    def place_of(cls, shape: CacheShape, length: int) -> StepPosition:
        kv_len = cls.allocated(shape, length) if shape.whole else length + 1
        return StepPosition(length, 1, kv_len, length)

    def append(self, new: Sequence[torch.Tensor], place: StepPosition) -> list[torch.Tensor]:
        # Each slice costs the host twice what `as_strided` does.
        slot, kv_len, held = int(place.slot), place.kv_len, []
        for (plane, one, strides, step), tokens in zip(self._laid_out, new, strict=True):
            plane.as_strided(one, strides, slot * step).copy_(tokens)
            batch, heads, _, width = one
            held.append(plane.as_strided((batch, heads, kv_len, width), strides))
        return held

    @functools.cached_property
    def _laid_out(
        self,
    ) -> list[tuple[torch.Tensor, tuple[int, int, int, int], tuple[int, ...], int]]:
        """Each plane with the shape of a token in it, its strides, and that of tokens."""
        found = []
        for plane in self.planes:
            batch, heads, _, width = plane.shape
            found.append((plane, (batch, heads, 1, width), plane.stride(), plane.stride(2)))
        return found

    @staticmethod
    def write(
        planes: list[torch.Tensor], new: Sequence[torch.Tensor], place: StepPosition
    ) -> list[torch.Tensor]:
        slot = place.slot
        for plane, tokens in zip(planes, new, strict=True):
            if isinstance(slot, int):
                plane[:, :, slot : slot + 1] = tokens
            else:
                plane[:, :, slot] = tokens
        return [plane[:, :, : place.kv_len] for plane in planes]


class RingCache(KVCache):
    """Keeps the window's last tokens only; a new one takes the place of the oldest.

    Keys are out of order then, so what looks at positions cannot use it, and no mask is needed:
    all that is kept is visible.
    """

    @staticmethod
    def kept(shape: CacheShape) -> int:
        """Return how many tokens the cache holds when it is full."""
        assert shape.window is not None
        return min(shape.window, shape.capacity)

    @staticmethod
    def allocated(shape: CacheShape, length: int) -> int:
        return RingCache.kept(shape) + 1  # for the reason that StaticCache has

    @classmethod
    def place_of(cls, shape: CacheShape, length: int) -> StepPosition:
        kept = cls.kept(shape)
        kv_len = min(length + 1, kept)
        return StepPosition(position=kv_len - 1, q_len=1, kv_len=kv_len, slot=length % kept)

    write = staticmethod(StaticCache.write)

    def fill(self, sequence: int, new: Sequence[torch.Tensor]) -> None:
        import torch

        kept = self.kept(self.shape)
        first = max(0, self.length - kept)
        slots = torch.arange(first, self.length, device=self.device) % kept
        for plane, tokens in zip(self.planes, new, strict=True):
            plane[sequence][:, slots] = tokens[0, :, first:]

    def mark(self, steps: int) -> None:
        super().mark(steps)
        kept = self.kept(self.shape)
        self._slots = [slot % kept for slot in range(self.length, self.length + min(steps, kept))]
        # On the host, outside the memory that is weighed.
        self._overwritten = [plane[:, :, self._slots].cpu() for plane in self.planes]

    def rewind(self) -> None:
        super().rewind()
        for plane, saved in zip(self.planes, self._overwritten, strict=True):
            plane[:, :, self._slots] = saved.to(self.device)


class PagedCache(KVCache):
    """Pages of a pool that all sequences share, found through a table.

    A page is taken from the pool when a sequence needs its first token: `table[b, i]` is the
    physical page of a sequence's i-th. Planes are `(kv_heads, pages · PAGE, width)`, and what is
    attended to has a batch of one in front.
    """

    def __init__(
        self, specs: Sequence[PlaneSpec], shape: CacheShape, length: int, device: torch.device
    ) -> None:
        """Allocate the pool, with a page for every token that may come."""
        import torch

        super().__init__(specs, shape, length, device)
        pages = self.allocated(shape, length) // PAGE
        self._free = list(range(pages))[::-1]
        self._taken: list[tuple[int, int]] = []  # (sequence, logical page), in order
        self.table = torch.zeros(
            shape.batch, -(-shape.capacity // PAGE), dtype=torch.int32, device=device
        )
        # The other way round, for masks: -1 where a page is not this sequence's.
        self.owner = torch.full((shape.batch, pages), -1, dtype=torch.int32, device=device)
        for logical in range(-(-length // PAGE)):
            self._take_pages(logical)
        self._marked_pages = len(self._taken)

    @staticmethod
    def _leading(shape: CacheShape) -> tuple[int, ...]:
        return (shape.kv_heads,)

    @staticmethod
    def allocated(shape: CacheShape, length: int) -> int:
        return shape.batch * -(-shape.capacity // PAGE) * PAGE

    @classmethod
    def place_of(cls, shape: CacheShape, length: int) -> StepPosition:
        return StepPosition(
            position=length, q_len=1, kv_len=cls.allocated(shape, length), slot=length
        )

    def place(self) -> StepPosition:
        place = super().place()
        if self.length % PAGE == 0:
            self._take_pages(self.length // PAGE)
        return place._replace(table=self.table, owner=self.owner)

    def _take_pages(self, logical: int) -> None:
        for sequence in range(self.shape.batch):
            physical = self._free.pop()
            self._taken.append((sequence, logical))
            self.table[sequence, logical] = physical
            self.owner[sequence, physical] = logical

    @staticmethod
    def write(
        planes: list[torch.Tensor], new: Sequence[torch.Tensor], place: StepPosition
    ) -> list[torch.Tensor]:
        assert place.table is not None
        slots = place.table[:, place.slot // PAGE].flatten() * PAGE + place.slot % PAGE
        for plane, tokens in zip(planes, new, strict=True):
            plane[:, slots] = tokens[:, :, 0].transpose(0, 1)
        return [plane[None] for plane in planes]

    def fill(self, sequence: int, new: Sequence[torch.Tensor]) -> None:
        import torch

        tokens = torch.arange(self.length, device=self.device)
        slots = self.table[sequence, tokens // PAGE] * PAGE + tokens % PAGE
        for plane, context in zip(self.planes, new, strict=True):
            plane[:, slots] = context[0]

    def mark(self, steps: int) -> None:
        super().mark(steps)
        self._marked_pages = len(self._taken)

    def rewind(self) -> None:
        super().rewind()
        while len(self._taken) > self._marked_pages:
            sequence, logical = self._taken.pop()
            physical = int(self.table[sequence, logical])
            self.owner[sequence, physical] = -1
            self._free.append(physical)

    @property
    def nbytes(self) -> int:
        return super().nbytes + self.table.nbytes + self.owner.nbytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheKind:
    """One choice of the cache axis."""

    name: str
    summary: str
    cache: type[KVCache] | None  # None: no cache, each step recomputes all tokens
    grows: bool = False  # a step's tensors are larger than those of the step before
    copies: bool = False  # old and new exist at once in a step
    windowed: bool = False  # it keeps a window of keys, in no order
    paged: bool = False  # keys are found through a table
    fixed: bool = False  # it can be written at a position that only the device knows

    @property
    def reuses(self) -> bool:
        """Whether a step reads keys and values of the steps before."""
        return self.cache is not None


CACHES = Registry(
    "cache",
    [
        CacheKind(
            name="none",
            summary="no cache: each step recomputes the whole context",
            cache=None,
            grows=True,
        ),
        CacheKind(
            name="concat",
            summary="grows by torch.cat at each step",
            cache=ConcatCache,
            grows=True,
            copies=True,
        ),
        CacheKind(
            name="static",
            summary="preallocated for the last step, written in place",
            cache=StaticCache,
            grows=True,
            fixed=True,
        ),
        CacheKind(
            name="ring",
            summary="keeps the last W tokens of a sliding_window, in place",
            cache=RingCache,
            grows=True,
            windowed=True,
        ),
        CacheKind(
            name="paged",
            summary="pages of 128 tokens from a shared pool, through a block table",
            cache=PagedCache,
            paged=True,
        ),
    ],
)
