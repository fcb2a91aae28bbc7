"""The unrounded float32 weights and inputs of a workload, the same for all of its variants.

Generated piece by piece from the seed, so that no variant and no reference has to hold more
of them than it uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from variants.workload import Workload

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Weights:
    """Projection matrices in `torch.nn.Linear`'s layout, `(out_features, in_features)`."""

    q: torch.Tensor  # (q_heads · head_dim, hidden_size)
    k: torch.Tensor  # (kv_heads · head_dim, hidden_size)
    v: torch.Tensor  # (kv_heads · head_dim, hidden_size)
    o: torch.Tensor  # (hidden_size, q_heads · head_dim)


def weight_shapes(workload: Workload) -> dict[str, tuple[int, int]]:
    """Return the shape of each projection, `(out_features, in_features)`."""
    q_width = workload.q_heads * workload.head_dim
    kv_width = workload.kv_heads * workload.head_dim
    hidden = workload.hidden_size
    return {
        "q": (q_width, hidden),
        "k": (kv_width, hidden),
        "v": (kv_width, hidden),
        "o": (hidden, q_width),
    }


def random_weights(workload: Workload, device: torch.device, seed: int) -> Weights:
    """Return float32 weights with variance 1 / in_features, so that scores have variance 1."""
    import torch

    generator = torch.Generator(device).manual_seed(seed)
    return Weights(
        **{
            name: torch.randn(shape, generator=generator, device=device) / shape[1] ** 0.5
            for name, shape in weight_shapes(workload).items()
        }
    )


def random_hidden(
    workload: Workload, sequence: int, device: torch.device, seed: int
) -> torch.Tensor:
    """Return the hidden states of one sequence of the batch, `(tokens, hidden_size)`, float32.

    The first `seq_len` tokens are the context or the prompt; when decoding, the new ones follow.
    """
    import torch

    generator = torch.Generator(device).manual_seed(seed * 1_000_003 + sequence + 1)
    shape = (workload.capacity, workload.hidden_size)
    return torch.randn(shape, generator=generator, device=device)


def random_gradient(
    workload: Workload, sequence: int, device: torch.device, seed: int
) -> torch.Tensor:
    """Return the gradient of one sequence's output, `(tokens, hidden_size)`, float32."""
    import torch

    generator = torch.Generator(device).manual_seed(seed * 1_000_003 + 500_000 + sequence)
    shape = (workload.capacity, workload.hidden_size)
    return torch.randn(shape, generator=generator, device=device)
