"""Why a call of a transformers model cannot be a captured step, in words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_OF_A_STEP = frozenset(
    {
        "input_ids",
        "attention_mask",
        "position_ids",
        "past_key_values",
        "use_cache",
        "logits_to_keep",
        "return_dict",
    }
)


def obstacle_of_model(model: nn.Module) -> str | None:
    """Say why no step of a model can be captured, as it stands now."""
    config: Any = model.config
    if getattr(config, "is_encoder_decoder", False):
        return "the model has an encoder"
    devices = sorted({str(tensor.device) for tensor in model.parameters()})
    if len(devices) != 1 or devices == ["meta"]:
        return f"weights must be on one device, got {', '.join(devices)}"
    for name, module in model.named_modules():
        if getattr(getattr(module, "_hf_hook", None), "offload", False):
            return f"weights of {name or 'the model'} are offloaded"
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        # transformers' own record hidden states, which ask for a call of their own.
        if any(not _modules_own(hook) for hook in hooks):
            return f"{name or 'the model'} has hooks, which a replay would not call"
    if model.training:
        return "the model is in training mode"
    return None


def _modules_own(hook: object) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("transformers.")


def obstacle_of_call(given: dict[str, Any], batch: int, length: int) -> str | None:
    """Say why a call with one new token is no plain step behind `length` tokens."""
    for name, value in given.items():
        if name not in _OF_A_STEP and value is not None and value is not False:
            return f"{name} is given"
    if given.get("use_cache") is False or given.get("return_dict") is False:
        return "use_cache and return_dict must be left on"
    if isinstance(given.get("logits_to_keep"), Tensor):
        return "logits_to_keep is a tensor"
    mask, positions = given.get("attention_mask"), given.get("position_ids")
    if mask is not None and (not isinstance(mask, Tensor) or mask.shape != (batch, length + 1)):
        return f"attention_mask must be of ({batch}, {length + 1}), for all tokens"
    if positions is not None and positions.shape not in ((batch, 1), (1, 1)):
        return f"position_ids must be of ({batch}, 1), got {tuple(positions.shape)}"
    return None


def obstacle_of_context(device: torch.device, trains: bool) -> str | None:
    """Say why what surrounds a call cannot be part of a graph."""
    if trains and torch.is_grad_enabled():
        return "gradients are recorded; generate() and torch.no_grad() record none"
    if torch.is_autocast_enabled(device.type):
        return "autocast is on"
    return None
