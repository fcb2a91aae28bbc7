"""Hugging Face transformers: a deployment's attention and cache inside of their models.

    deployment = variants.load("best.json")
    name = hf.register(deployment)
    model = AutoModelForCausalLM.from_pretrained(..., attn_implementation=name)
    hf.capture_decoding(model, deployment, capacity=8192)
    model.generate(...)

or, with kernels launched one by one,

    model.generate(..., past_key_values=hf.past_key_values(deployment, model.config, capacity))

Their attention is called with queries, keys and values after the cache, and with a mask that is
made once for all layers; so two functions and a kind of cache layer are all that is needed. A
name is not saved with a model: register before loading one. A class that does not call its
attention by name is refused when it is loaded (`variants.hf.model_classes`); of a model with
parts, name it for its decoder alone: `attn_implementation={"text_config": name}`.

May import `deploy` and all that it may. Needs transformers (`pip install '.[hf]'`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from variants.hf.attention_interface import capture_decoding, past_key_values, register

__all__ = ["capture_decoding", "past_key_values", "register"]


def __getattr__(name: str) -> Any:
    """Import what is public when it is first used: transformers takes seconds."""
    if name in __all__:
        from variants.hf import attention_interface

        return getattr(attention_interface, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
