"""A decoder of plain PyTorch modules whose decode steps are replayed as one CUDA graph.

    python docs/own_decoder.py best.json

The decoder asks the cache where its tokens stand and gives attention its layer of the cache;
all else is its own. The prompt is launched as usual, each further token is a replay. On a CPU the
same code runs, operation by operation.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import variants
from variants.deploy.captured_step import CapturedStep
from variants.deploy.deployment import Deployment
from variants.deploy.model_cache import ModelCache


def rotated(heads: Tensor, positions: Tensor) -> Tensor:
    """Turn `(batch, heads, tokens, head_dim)` by the tokens' positions, `(tokens,)`."""
    half = heads.shape[-1] // 2
    frequencies = 10000.0 ** (-torch.arange(half, device=heads.device) / half)
    angles = (positions[:, None] * frequencies).to(heads.dtype)
    one, other = heads[..., :half], heads[..., half:]
    sin, cos = angles.sin(), angles.cos()
    return torch.cat([one * cos - other * sin, other * cos + one * sin], dim=-1)


class Block(nn.Module):
    """Attention as it was searched for, and a gated MLP."""

    def __init__(self, deployment: Deployment) -> None:
        """Make projections for the heads that were measured."""
        super().__init__()
        self._attention, of = deployment.attention, deployment.attention.workload
        self._head_dim, hidden = of.head_dim, of.hidden_size
        self.norm, self.mlp_norm = nn.RMSNorm(hidden), nn.RMSNorm(hidden)
        self.q_proj = nn.Linear(hidden, of.q_heads * of.head_dim, bias=False)
        self.k_proj = nn.Linear(hidden, of.kv_heads * of.head_dim, bias=False)
        self.v_proj = nn.Linear(hidden, of.kv_heads * of.head_dim, bias=False)
        self.o_proj = nn.Linear(of.q_heads * of.head_dim, hidden, bias=False)
        self.gate, self.up = nn.Linear(hidden, 2 * hidden), nn.Linear(hidden, 2 * hidden)
        self.down = nn.Linear(2 * hidden, hidden)

    def forward(self, hidden: Tensor, positions: Tensor, cache: ModelCache, layer: int) -> Tensor:
        """Return hidden states of the new tokens, `(batch, tokens, hidden_size)`."""
        given = self.norm(hidden)
        query, key, value = (
            project(given).unflatten(-1, (-1, self._head_dim)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotated(query, positions), rotated(key, positions)
        out = self._attention(query, key, value, cache=cache[layer])
        hidden = hidden + self.o_proj(out.transpose(1, 2).flatten(2))
        given = self.mlp_norm(hidden)
        return hidden + self.down(F.silu(self.gate(given)) * self.up(given))


class Decoder(nn.Module):
    """Tokens to logits."""

    def __init__(self, deployment: Deployment, layers: int, vocabulary: int) -> None:
        """Make random weights."""
        super().__init__()
        hidden = deployment.attention.workload.hidden_size
        self.embed = nn.Embedding(vocabulary, hidden)
        self.blocks = nn.ModuleList(Block(deployment) for _ in range(layers))
        self.head = nn.Linear(hidden, vocabulary, bias=False)

    def forward(self, tokens: Tensor, cache: ModelCache) -> Tensor:
        """Return logits of the new tokens, `(batch, tokens, vocabulary)`; the cache keeps them."""
        hidden = self.embed(tokens)
        positions = cache.positions(tokens.shape[1])
        for layer, block in enumerate(self.blocks):
            hidden = block(hidden, positions, cache, layer)
        return self.head(hidden)


@torch.no_grad()
def generate(model: Decoder, deployment: Deployment, prompt: Tensor, new_tokens: int) -> Tensor:
    """Return greedy answers, `(batch, new_tokens)`, to prompts of `(batch, tokens)`."""
    batch, tokens = prompt.shape
    cache = deployment.model_cache(
        layers=len(model.blocks),
        batch=batch,
        capacity=tokens + new_tokens,
        device=prompt.device,
    )
    step = CapturedStep(lambda token: model(token, cache), cache)
    logits = model(prompt, cache)
    answer = [logits[:, -1:].argmax(-1)]
    while len(answer) < new_tokens:
        answer.append(step(answer[-1]).argmax(-1))
    return torch.cat(answer, dim=1)


if __name__ == "__main__":
    loaded = variants.load(sys.argv[1])
    decoder = Decoder(loaded, layers=4, vocabulary=1000).to(loaded.device.kind, loaded.dtype)
    given = torch.randint(1000, (2, 100), device=loaded.device.kind)
    print(generate(decoder, loaded, given, new_tokens=50))
