"""FlexAttention: the score_mod compiled into a fused kernel."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from variants.backends.backend import (
    NAMED_CPU_KERNELS,
    Attention,
    Backend,
    LastCall,
    Prepared,
    Support,
    Takes,
    times_written,
)
from variants.caches import PAGE, StepPosition

if TYPE_CHECKING:
    import torch
    from torch.nn.attention.flex_attention import BlockMask

    from variants.kv_dtypes import KeyValue

BLOCK = PAGE  # FlexAttention's default sparse block, in rows and in keys
# Graphs of FlexAttention in one process, beside one for each call that a process gets ready for;
# PyTorch's 8 would refuse the ninth layer that is loaded.
RECOMPILE_LIMIT = 64
_made = itertools.count(1)
MASKS_KEPT = 256  # of calls that were not known ahead


class Blocks(NamedTuple):
    """Which key blocks a row of query blocks visits, `(1, 1, rows)` and `(1, 1, rows, blocks)`."""

    partial_count: torch.Tensor
    partial: torch.Tensor
    full_count: torch.Tensor
    full: torch.Tensor

    def widened(self, blocks: int) -> Blocks:
        """Return the same with room for `blocks` blocks a row: a pool has more than a sequence."""
        import torch.nn.functional as F

        def wide(visited: torch.Tensor) -> torch.Tensor:
            return F.pad(visited, (0, blocks - visited.shape[-1]))

        return self._replace(partial=wide(self.partial), full=wide(self.full))


class FlexMask(NamedTuple):
    """What one call of FlexAttention is given beside query, key and value."""

    score_mod: Callable[..., Any] | None
    block_mask: BlockMask


def visited_blocks(
    visible: Any, position: int, q_len: int, kv_len: int, device: torch.device
) -> Blocks:
    """Return the blocks that `q_len` rows starting at `position` visit among `kv_len` keys.

    `create_block_mask` would hold the whole mask, `q_len × kv_len`; this holds a few block
    rows at a time (the compiled form of `create_block_mask` fails on CPU at one query row).
    """
    import torch

    q_blocks, kv_blocks = -(-q_len // BLOCK), -(-kv_len // BLOCK)
    partial = torch.empty(q_blocks, kv_blocks, dtype=torch.bool, device=device)
    full = torch.empty_like(partial)
    kv_idx = torch.arange(kv_blocks * BLOCK, device=device)
    blocks_at_once = max(1, 2**26 // (BLOCK * BLOCK * kv_blocks))
    for start in range(0, q_blocks, blocks_at_once):
        stop = min(q_blocks, start + blocks_at_once)
        row = torch.arange(start * BLOCK, stop * BLOCK, device=device)[:, None]
        seen = visible(row + position, kv_idx) & (row < q_len) & (kv_idx < kv_len)
        counts = seen.view(stop - start, BLOCK, kv_blocks, BLOCK).sum(dim=(1, 3))
        full[start:stop] = counts == BLOCK * BLOCK
        partial[start:stop] = (counts > 0) & (counts < BLOCK * BLOCK)
    return Blocks(*_ordered(partial[None]), *_ordered(full[None]))


def _ordered(visited: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how many blocks each row of `(batch, rows, blocks)` visits, and which: those first.

    `(batch, 1, rows)` and `(batch, 1, rows, blocks)`.
    """
    import torch

    order = torch.argsort(visited.to(torch.int32), dim=-1, descending=True, stable=True)
    return visited.sum(dim=-1).to(torch.int32)[:, None], order.to(torch.int32)[:, None]


class FlexAttention(Prepared):
    """Compiled FlexAttention with the masks of all calls that are known."""

    def __init__(self, attention: Attention) -> None:
        """Build the masks. Compilation comes with the first call."""
        import torch
        from torch.nn.attention.flex_attention import flex_attention

        _allow_graphs(RECOMPILE_LIMIT + next(_made))
        self._attention = attention
        self._call: Callable[..., Any] = flex_attention
        if not attention.inlined:
            # fullgraph: past the recompile limit PyTorch would otherwise run the unfused form in
            # silence. dynamic: with fixed shapes every new length would compile for seconds.
            self._call = torch.compile(
                flex_attention,
                fullgraph=True,
                dynamic=attention.grows,
                options=NAMED_CPU_KERNELS if attention.device.type == "cpu" else None,
            )
        # Behind a cache, row 0 is not token 0. As tensors, so that a new offset is no new graph.
        self._offsets = torch.arange(
            attention.capacity, dtype=torch.int32, device=attention.device
        )
        self._masks: dict[StepPosition, FlexMask] = {}
        self._blocks: dict[StepPosition, Blocks] = {}
        self._rows: Blocks | None = None
        self._last: LastCall | None = None
        for place in attention.places:
            self._blocks_of(place)
            self.mask(place)

    @property
    def nbytes(self) -> int:
        kept: list[object] = [self._offsets]
        kept += [part for blocks in self._blocks.values() for part in blocks]
        kept += [part for mask in self._masks.values() for part in mask.block_mask.as_tuple()]
        kept += self._rows or ()
        unique = {id(part): part for part in kept}
        return sum(getattr(part, "nbytes", 0) for part in unique.values())

    def mask(self, place: StepPosition) -> FlexMask:
        if place.table is not None:
            return self._paged_mask(place)
        if place.visible is not None:
            return self._visible_mask(place, place.visible)
        if not self._attention.places and len(self._masks) > MASKS_KEPT:
            self._masks.clear()
            self._blocks.clear()
        mask = self._masks.get(place)  # at once: another thread may clear them in between
        if mask is None:
            mask = self._masks[place] = self._masked(
                self._offsets[place.position],
                self._blocks_of(place),
                (place.q_len, place.kv_len),
                backward=self._attention.trains,
            )
        return mask

    def mask_at(self, position: torch.Tensor) -> FlexMask:
        attention, every = self._attention, self._rows
        if every is None:
            rows = [
                visited_blocks(
                    attention.mod.visible, row, 1, attention.kv_capacity, attention.device
                )
                for row in range(attention.first_position, attention.capacity)
            ]
            import torch

            every = self._rows = Blocks(
                *(torch.cat(parts, dim=2) for parts in zip(*rows, strict=True))
            )
        index = position - attention.first_position
        here = Blocks(*(part.index_select(2, index) for part in every))
        return self._masked(position[0], here, (1, attention.kv_capacity))

    def attend(self, query: torch.Tensor, kv: KeyValue, mask: FlexMask) -> torch.Tensor:
        if self._attention.grows and query.shape[2] == 1:
            _fix_batch_and_heads(query, *kv)
        out = self._call(
            query,
            kv.key,
            kv.value,
            score_mod=mask.score_mod,
            block_mask=mask.block_mask,
            scale=self._attention.scale,
            enable_gqa=self._attention.grouped,
        )
        return out  # type: ignore[no-any-return]

    def _blocks_of(self, place: StepPosition) -> Blocks:
        """Return the blocks of a call; of a paged cache, those of the sequence itself."""
        plain = place._replace(table=None, owner=None, visible=None)
        blocks = self._blocks.get(plain)
        if blocks is None:
            attention = self._attention
            kv_len = attention.capacity if attention.paged else place.kv_len
            blocks = self._blocks[plain] = visited_blocks(
                attention.mod.visible, place.position, place.q_len, kv_len, attention.device
            ).widened(-(-place.kv_len // BLOCK))
        return blocks

    def _masked(
        self,
        offset: torch.Tensor,
        blocks: Blocks,
        lengths: tuple[int, int],
        *,
        backward: bool = False,
        key_at: Callable[[Any, Any], Any] = lambda batch, kv_idx: kv_idx,
        sees: Callable[[Any, Any, Any], Any] | None = None,
    ) -> FlexMask:
        """Put a score_mod and a BlockMask together.

        `key_at` finds the position of a key. `sees` tells of a sequence, a row and a position
        whether the row sees it, in place of the score_mod.
        """
        from torch.nn.attention.flex_attention import BlockMask

        mod = self._attention.mod

        def mask_mod(batch: Any, head: Any, q_idx: Any, kv_idx: Any) -> Any:
            position = key_at(batch, kv_idx)
            if sees is None:
                return mod.visible(q_idx + offset, position)
            return sees(batch, q_idx, position)

        score_mod = None
        if mod.score is not None:
            change = mod.score

            def score_mod(value: Any, batch: Any, head: Any, q_idx: Any, kv_idx: Any) -> Any:
                return change(value, head, q_idx + offset, key_at(batch, kv_idx))

        block_mask = BlockMask.from_kv_blocks(
            *blocks,
            BLOCK_SIZE=BLOCK,
            mask_mod=mask_mod,
            seq_lengths=lengths,
            compute_q_blocks=backward,
        )
        return FlexMask(score_mod, block_mask)

    def _visible_mask(self, place: StepPosition, visible: torch.Tensor) -> FlexMask:
        """Take a mask of booleans. That of the last call is kept: a model's layers share it."""
        import torch
        import torch.nn.functional as F

        last, written = self._last, times_written(visible)
        if last is not None and last.serves(place, written):
            made: FlexMask = last.made
            return made
        # To whole blocks: what a kernel reads beyond the last row or key is nobody's.
        padding = (0, -place.kv_len % BLOCK, 0, -place.q_len % BLOCK)
        padded = F.pad(visible, padding)
        batch, _, rows, keys = padded.shape
        blocks = padded.view(batch, rows // BLOCK, BLOCK, keys // BLOCK, BLOCK)
        counts = blocks.sum(dim=(2, 4))
        full = counts == BLOCK * BLOCK
        seen = self._fixed(padded[:, 0].expand(self._attention.batch, -1, -1))
        at = place.at
        offset = self._offsets[place.position] if at is None else at.to(torch.int32)[0]
        mask = self._masked(
            offset,
            Blocks(*_ordered((counts > 0) & ~full), *_ordered(full)),
            (place.q_len, place.kv_len),
            sees=lambda sequence, row, position: seen[sequence, row, position],
        )
        self._last = LastCall(place, written, mask)
        return mask

    def _fixed(self, seen: torch.Tensor) -> torch.Tensor:
        """On CPU, pad rows and keys to whole blocks and have them compiled as they are.

        Inductor's template for CPUs (torch 2.13) takes a size in a mask, `ks29`, for its own
        `ks2`, and writes code that does not compile: see `modification` there.
        """
        import torch

        if seen.device.type == "cpu":
            _, rows, keys = seen.shape
            seen = torch.nn.functional.pad(seen, (0, -keys % BLOCK, 0, -rows % BLOCK))
            torch._dynamo.mark_static(seen)
        return seen

    def _paged_mask(self, place: StepPosition) -> FlexMask:
        """Look up a sequence's blocks in its page table. Made anew at each step, as pages move."""
        import torch

        table, owner = place.table, place.owner
        assert table is not None
        assert owner is not None
        logical = self._blocks_of(place)
        if place.visible is not None:
            # Any block may hold hidden keys, and none is known to be hidden as a whole.
            count = -(-place.visible.shape[3] // BLOCK)
            every = torch.arange(logical.partial.shape[3], device=table.device, dtype=torch.int32)
            logical = Blocks(
                torch.full_like(logical.partial_count, count),
                every.expand_as(logical.partial),
                torch.zeros_like(logical.full_count),
                every.expand_as(logical.full),
            )
        batch = len(table)

        def physical(blocks: torch.Tensor) -> torch.Tensor:
            # A pool has more blocks than a sequence: what lies behind its table is not visited.
            index = blocks.reshape(1, -1).expand(batch, -1).long().clamp(max=table.shape[1] - 1)
            pages = torch.gather(table, 1, index)
            return pages.view(batch, 1, *blocks.shape[2:])

        def counts(blocks: torch.Tensor) -> torch.Tensor:
            return blocks.expand(batch, 1, -1)

        blocks = Blocks(
            counts(logical.partial_count),
            physical(logical.partial),
            counts(logical.full_count),
            physical(logical.full),
        )

        def key_at(sequence: Any, kv_idx: Any) -> Any:
            return owner[sequence, kv_idx // PAGE] * PAGE + kv_idx % PAGE

        offset = self._offsets[place.position]
        lengths = (place.q_len, place.kv_len)
        if place.visible is None:
            return self._masked(offset, blocks, lengths, key_at=key_at)
        # Another column for what is no key of this sequence, or none yet: nobody sees it.
        seen = torch.nn.functional.pad(place.visible[:, 0], (0, 1)).expand(batch, -1, -1)
        seen = self._fixed(seen)
        last = self._offsets[place.visible.shape[3]]

        def sees(sequence: Any, row: Any, position: Any) -> Any:
            column = torch.where((position >= 0) & (position < last), position, last)
            return seen[sequence, row, column]

        return self._masked(offset, blocks, lengths, key_at=key_at, sees=sees)


def _allow_graphs(count: int) -> None:
    """Have PyTorch compile one function for so many kinds of calls."""
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, count)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, count)


def _fix_batch_and_heads(*tensors: torch.Tensor) -> None:
    """Have a step of one row compiled for its batch and heads, for any lengths.

    Else Inductor (torch 2.13, `_use_flex_decoding`) leaves out its kernel for few rows, which
    splits the keys among more multiprocessors. A loaded model compiles anew for each batch size.
    """
    import torch

    for tensor in tensors:
        for dim in (0, 1):
            torch._dynamo.mark_static(tensor, dim)


FLEX = Backend(
    name="flex",
    summary="FlexAttention, always compiled",
    support={
        "cpu": Support(
            precisions=("fp32", "bf16", "fp16"),
            takes=Takes.ANY,
            grouped_heads=True,
            backward=False,
            # Inductor's flex template for CPUs (torch 2.13) takes the shape of the buffer behind
            # a view for the query's own, and fuses nothing behind itself.
            inlined=False,
            paged=True,
            # At 16, and 8 keys more than a multiple of 16, that template reads what nobody wrote
            # (torch 2.13, CPUs without AVX-512).
            min_head_dim=32,
            needs_cpp_compiler=True,
        ),
        "cuda": Support(
            precisions=("fp32", "tf32", "bf16", "fp16"),
            takes=Takes.ANY,
            grouped_heads=True,
            paged=True,
            reads_stored={"fp8": ("bf16", "fp16")},
            reads_stored_capability=(8, 9),
            min_capability=(8, 0),
            min_head_dim=16,
            needs_triton=True,
        ),
    },
    prepare=FlexAttention,
    compiled=True,
    whole_buffer=True,
    skips_hidden=True,
    proof={"cpu": r"^graph_\d+_kernel", "cuda": r"^triton_tem_fused"},
)
