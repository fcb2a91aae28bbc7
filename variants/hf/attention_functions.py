"""A deployment's attention in the form in which transformers calls it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from variants.deploy.layer_cache import CachedKV
from variants.deploy.step_state import NotCapturableError
from variants.hf.captured_cache import HELD
from variants.hf.step_operator import attend_in_step
from variants.kv_dtypes import KeyValue

if TYPE_CHECKING:
    from variants.deploy.deployment import Deployment

# Passed along to every attention, and of no meaning to this one.
_OF_NO_MEANING = frozenset(
    {
        "cache_position",
        "logits_to_keep",
        "num_items_in_batch",
        "output_hidden_states",
        "output_router_logits",
        "position_ids",
        "return_dict",
        "use_cache",
    }
)
_NOT_SAID: Any = object()
STEP = "goldilocks_step"  # the name of `attention_of_step`


class Passed:
    """From cache to attention in a compiled step: what was appended last, and where.

    Not attributes of the tensors, which not all compilers can set on what they trace.
    """

    key: Tensor | None = None
    value: Tensor | None = None
    layer: tuple[int, int] | None = None  # number of the step, and place among its layers


PASSED = Passed()

# By deployment, what stands for its latest call: whether there was one since is all that counts.
last_call: dict[str, object] = {}
# Configurations of models that were given masks without their windows.
left_to_attention: set[type] = set()


def attention_of(deployment: Deployment) -> Callable[..., tuple[Tensor, None]]:
    """Return the function that transformers calls in each layer."""
    attention, own = deployment.attention, deployment.name

    def forward(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        is_causal: bool | None = None,
        softcap: float | None = None,
        sliding_window: int | None = _NOT_SAID,
        **others: object,
    ) -> tuple[Tensor, None]:
        if dropout or others or is_causal is not None:
            _refuse_others(dropout, is_causal, others)
        if not getattr(module, "is_causal", True):
            raise ValueError(f"attention must be causal, got {type(module).__name__}")
        if sliding_window is _NOT_SAID:
            sliding_window = None
            _check_no_window(module)
        last_call[own] = object()
        held: Any = getattr(key, HELD, None)
        if held is None or getattr(value, HELD, None) is not held:
            # Of no cache of ours, or changed since: what is given counts.
            if attention_mask is None and query.shape[2] > 1:
                # A prompt, in a buffer that has room for more: see `sdpa_attention_forward`.
                key, value = (part[:, :, : query.shape[2]] for part in (key, value))
            held = CachedKV.given(query, key, value)
        score_mod = _score_mod(softcap, sliding_window)
        kv = KeyValue(key, value) if held.carried else None
        out = attention.attend(query, held, attention_mask, score_mod, scaling, kv)
        return out.transpose(1, 2).contiguous(), None

    return forward


def attention_of_step(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    softcap: float | None = None,
    sliding_window: int | None = _NOT_SAID,
    **others: object,
) -> tuple[Tensor, None]:
    """Attend in a step that is compiled: the deployment's attention and cache, as one operator."""
    _refuse_others(dropout, is_causal, others)
    if sliding_window is _NOT_SAID:
        sliding_window = None
        _check_no_window(module)
    layer = PASSED.layer
    if layer is None or key is not PASSED.key or value is not PASSED.value:
        raise NotCapturableError("the model changes keys or values behind its cache")
    PASSED.key = PASSED.value = PASSED.layer = None
    if attention_mask is not None:
        raise NotCapturableError("the model makes a mask of its own in each step")
    score_mod = _score_mod.__wrapped__(softcap, sliding_window)
    return attend_in_step(query, key, value, *layer, score_mod, scaling), None


def _refuse_others(dropout: float, is_causal: bool | None, others: dict[str, object]) -> None:
    if dropout:
        raise ValueError(f"dropout must be 0, got {dropout}")
    if is_causal is False:
        raise ValueError("attention must be causal, got is_causal=False")
    for name, value in others.items():
        if name not in _OF_NO_MEANING and value is not None and value is not False:
            raise TypeError(f"attention takes no {name}, and would leave out what it does")


def _check_no_window(module: nn.Module) -> None:
    """Refuse a layer that has a window and does not say so: nothing would mask it."""
    config: Any = getattr(module, "config", None)
    if type(config) not in left_to_attention or getattr(config, "sliding_window", None) is None:
        return
    types, index = getattr(config, "layer_types", None), getattr(module, "layer_idx", None)
    if types is None or index is None or types[index] == "sliding_attention":
        raise ValueError(f"{type(module).__name__} does not tell its attention its sliding_window")


@functools.cache
def _score_mod(softcap: float | None, sliding_window: int | None) -> str:
    parts = []
    if softcap is not None:
        if softcap != int(softcap):
            raise ValueError(f"softcap must be a whole number, got {softcap}")
        parts.append(f"softcap:{int(softcap)}")
    if sliding_window is not None:
        parts.append(f"sliding_window:{sliding_window}")
    return "+".join(parts) or "none"
