"""PyTorch's own answer to whether a fused SDPA backend takes a configuration."""

from __future__ import annotations

from variants.caches import CACHES
from variants.configuration import Configuration
from variants.precisions import PRECISIONS


def sdpa_accepts(configuration: Configuration) -> bool | None:
    """Ask `torch.backends.cuda.can_use_*` about one step, on the current CUDA device.

    None where there is no such function: only flash, efficient and cudnn have one.
    """
    import torch
    from torch.backends import cuda

    workload, variant = configuration.workload, configuration.variant
    asks = {
        "flash": cuda.can_use_flash_attention,
        "efficient": cuda.can_use_efficient_attention,
        "cudnn": cuda.can_use_cudnn_attention,
    }
    if variant.backend not in asks:
        return None
    reuses = variant.cache is not None and CACHES[variant.cache].reuses
    rows = 1 if reuses else workload.capacity
    kv_heads = configuration.kv_heads_given
    dtype = PRECISIONS[variant.precision].dtype

    def some(heads: int, length: int, width: int) -> torch.Tensor:
        empty = torch.empty(workload.batch, heads, length, width, dtype=dtype, device="cuda")
        return empty.requires_grad_(workload.trains)

    query = some(workload.q_heads, rows, workload.head_dim)
    key, value = (some(kv_heads, workload.capacity, workload.head_dim) for _ in range(2))
    mask = None
    if not workload.scores.plain:
        mask = torch.zeros(1, 1, rows, workload.capacity, dtype=dtype, device="cuda")
    parameters = cuda.SDPAParams(
        query, key, value, mask, 0.0, mask is None and not reuses, kv_heads != workload.q_heads
    )
    with PRECISIONS[variant.precision].applied():
        return bool(asks[variant.backend](parameters, False))
