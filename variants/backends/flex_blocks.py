"""Which blocks of keys a block of query rows visits: the sparse part of a BlockMask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from variants.caches import PAGE

if TYPE_CHECKING:
    import torch

BLOCK = PAGE  # FlexAttention's default sparse block, in rows and in keys


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
    return Blocks(*ordered(partial[None]), *ordered(full[None]))


def ordered(visited: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how many blocks each row of `(batch, rows, blocks)` visits, and which: those first.

    `(batch, 1, rows)` and `(batch, 1, rows, blocks)`.
    """
    import torch

    order = torch.argsort(visited.to(torch.int32), dim=-1, descending=True, stable=True)
    return visited.sum(dim=-1).to(torch.int32)[:, None], order.to(torch.int32)[:, None]
