"""Public models that `--model` knows by name."""

from __future__ import annotations

from variants.models.architecture import Model
from variants.registry import Registry


def _model(
    name: str,
    q_heads: int,
    kv_heads: int,
    head_dim: int,
    hidden_size: int,
    layers: int | dict[str, int],
) -> Model:
    return Model(
        name=name,
        q_heads=q_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden_size=hidden_size,
        layers={"none": layers} if isinstance(layers, int) else layers,
    )


MODELS = Registry(
    "model",
    [
        _model("gpt2", 12, 12, 64, 768, 12),
        _model("llama-3.2-1b", 32, 8, 64, 2048, 16),
        _model("llama-3.1-8b", 32, 8, 128, 4096, 32),
        _model("llama-3.1-70b", 64, 8, 128, 8192, 80),
        _model("qwen2.5-7b", 28, 4, 128, 3584, 28),
        _model("qwen3-8b", 32, 8, 128, 4096, 36),
        _model("mistral-7b-v0.1", 32, 8, 128, 4096, {"sliding_window:4096": 32}),
        _model("phi-3-mini-4k", 32, 32, 96, 3072, {"sliding_window:2047": 32}),
        _model(
            "gemma-2-9b",
            16,
            8,
            256,
            3584,
            {"softcap:50+sliding_window:4096": 21, "softcap:50": 21},
        ),
        _model("bloom-7b1", 32, 32, 128, 4096, {"alibi": 30}),
        _model("mpt-7b", 32, 32, 128, 4096, {"alibi": 32}),
    ],
)
