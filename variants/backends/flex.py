"""FlexAttention: the score_mod compiled into a fused kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from variants.backends.backend import Attention, Backend, Prepared, Support, Takes

if TYPE_CHECKING:
    import torch
    from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128  # FlexAttention's default sparse block, in rows and in keys
# Graphs of FlexAttention in one process; PyTorch's 8 would refuse the ninth layer that is loaded.
RECOMPILE_LIMIT = 64


def block_mask(
    visible: Any, position: int, q_len: int, kv_len: int, device: torch.device
) -> BlockMask:
    """Return the BlockMask of `q_len` rows that start at `position` over `kv_len` keys.

    `create_block_mask` would hold the whole mask, `q_len × kv_len`; this holds a few block
    rows at a time (the compiled form of `create_block_mask` fails on CPU at one query row).
    """
    import torch
    from torch.nn.attention.flex_attention import BlockMask

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

    def blocks(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        order = torch.argsort(mask.to(torch.int32), dim=1, descending=True, stable=True)
        return mask.sum(dim=1).to(torch.int32)[None, None], order.to(torch.int32)[None, None]

    # Behind a cache, row 0 is not token 0. As a tensor, so that a new offset is not a new graph.
    offset = torch.tensor(position, dtype=torch.int32, device=device)

    def mask_mod(batch: Any, head: Any, q_idx: Any, kv_idx: Any) -> Any:
        return visible(q_idx + offset, kv_idx)

    return BlockMask.from_kv_blocks(
        *blocks(partial),
        *blocks(full),
        BLOCK_SIZE=BLOCK,
        mask_mod=mask_mod,
        seq_lengths=(q_len, kv_len),
    )


def prepare_flex(attention: Attention) -> Prepared:
    """Compile FlexAttention and build the masks of all calls that are known."""
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, RECOMPILE_LIMIT)
    # fullgraph: past the recompile limit PyTorch would otherwise run the unfused form in silence.
    # dynamic: with fixed shapes every new length would compile for seconds.
    compiled = torch.compile(flex_attention, fullgraph=True, dynamic=attention.grows)
    mod, grouped = attention.mod, attention.grouped

    def score_mod_at(position: int) -> Any:
        if mod.score is None:
            return None
        score = mod.score
        offset = torch.tensor(position, dtype=torch.int32, device=attention.device)

        def score_mod(value: Any, batch: Any, head: Any, q_idx: Any, kv_idx: Any) -> Any:
            return score(value, head, q_idx + offset, kv_idx)

        return score_mod

    prepared: dict[tuple[int, int, int], tuple[Any, BlockMask]] = {}

    def prepare_call(call: tuple[int, int, int]) -> tuple[Any, BlockMask]:
        position, q_len, kv_len = call
        mask = block_mask(mod.visible, position, q_len, kv_len, attention.device)
        return prepared.setdefault(call, (score_mod_at(position), mask))

    for call in attention.calls:
        prepare_call(call)

    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, position: int
    ) -> torch.Tensor:
        call = (position, query.shape[2], key.shape[2])
        score_mod, mask = prepared.get(call) or prepare_call(call)
        out = compiled(query, key, value, score_mod=score_mod, block_mask=mask, enable_gqa=grouped)
        assert isinstance(out, torch.Tensor)
        return out

    return Prepared(attend, sum(_mask_bytes(mask) for _, mask in prepared.values()))


def _mask_bytes(mask: BlockMask) -> int:
    return sum(getattr(part, "nbytes", 0) for part in mask.as_tuple())


FLEX = Backend(
    name="flex",
    summary="FlexAttention, always compiled",
    support={
        "cpu": Support(
            precisions=("fp32", "bf16", "fp16"),
            takes=Takes.ANY,
            grouped_heads=True,
            min_head_dim=16,
            needs_cpp_compiler=True,
        ),
        "cuda": Support(
            precisions=("fp32", "tf32", "bf16", "fp16"),
            takes=Takes.ANY,
            grouped_heads=True,
            min_capability=(8, 0),
            min_head_dim=16,
            needs_triton=True,
        ),
    },
    prepare=prepare_flex,
    compiled=True,
    proof={"cpu": r"^Torch-Compiled Region", "cuda": r"^triton_tem_fused"},
)
