"""Attention, mask and cache layers of a deployment, in the forms that transformers asks for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from torch import Tensor

from variants.deploy.layer_cache import CachedPlanes, LayerCache

try:
    from transformers import AttentionInterface
    from transformers.cache_utils import (
        Cache,
        CacheLayerMixin,
        DynamicCache,
        DynamicLayer,
        DynamicSlidingWindowLayer,
        LinearAttentionAndFullAttentionLayer,
        LinearAttentionAndSlidingWindowAttentionLayer,
        LinearAttentionLayer,
    )
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    from variants.hf.model_classes import asks_of, watch
except ImportError as error:  # the rest of the product does without
    raise ImportError("variants.hf needs transformers: pip install '.[hf]'") from error

from variants.hf.attention_functions import (
    STEP,
    attention_of,
    attention_of_step,
    last_call,
    left_to_attention,
)
from variants.hf.captured_cache import HELD, unreadable
from variants.hf.captured_decoding import CapturedDecoding

if TYPE_CHECKING:
    from variants.deploy.deployment import Deployment

# Names that transformers takes for a kernel of the hub, or checks against a kernel's demands.
_UNSAFE = re.compile(r"/|flash|sdpa|flex|paged|eager")


def register(deployment: Deployment) -> str:
    """Register attention and mask functions, and return the name for `attn_implementation=`.

    Raises:
        ValueError: The deployment's name would be taken for something else.
    """
    name = _named(deployment.name)
    if _UNSAFE.search(name):
        raise ValueError(f"name must hold none of {_UNSAFE.pattern}, got {name}")
    AttentionInterface.register(name, attention_of(deployment))
    AttentionMaskInterface.register(name, _mask)
    AttentionInterface.register(STEP, attention_of_step)
    AttentionMaskInterface.register(STEP, _mask)
    watch(name)
    return name


def capture_decoding(
    model: Any, deployment: Deployment, *, capacity: int, compiled: bool = False
) -> CapturedDecoding:
    """Have the decode steps of `model.generate(...)` replay a captured step of the whole model.

    `generate` is called as ever; it then uses the deployment's cache. Steps are captured for each
    batch and range of lengths when they are first needed, and kept. Their memory is one pool.

    Args:
        model: Has the deployment's attention (`register`), and is where it will run.
        deployment: Has chosen attention and cache.
        capacity: Tokens of a sequence, prompt and answer together. Memory is allocated for all
            of them; time is that of those that are there.
        compiled: Have what lies between the attentions compiled into few kernels before it is
            captured. Compiling takes tens of seconds for each batch, at its first step, and
            needs a model that compiles as a whole; results differ by rounding.

    Returns:
        What takes it back: `remove()`, or the end of a `with` block.

    Raises:
        ValueError: The model has another attention, is captured already, or has layers of a kind
            that the deployment cannot serve.
    """
    layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
    others = {type(layer) for layer in layers} - {DynamicLayer, DynamicSlidingWindowLayer}
    if others:
        names = ", ".join(sorted(kind.__name__ for kind in others))
        raise ValueError(f"layers must be of full or sliding attention, got some with {names}")
    return CapturedDecoding(
        model, deployment, _named(deployment.name), len(layers), capacity, compiled=compiled
    )


def past_key_values(deployment: Deployment, config: Any, capacity: int) -> Any:
    """Return the deployment's cache for all layers of a model, for `past_key_values=`.

    It serves this deployment's attention only: of quantized, paged and ring caches nothing else
    can read.

    Args:
        deployment: Has chosen the cache and its kv_dtype.
        config: The model's.
        capacity: Tokens of a sequence, prompt and answer together.

    Raises:
        ValueError: The choice keeps no cache (call the model with `use_cache=False`), or a layer
            is of a kind that it cannot serve.
    """
    config = config.get_text_config(decoder=True)
    theirs = DynamicCache(config=config).layers
    return Cache(
        layers=[
            _in_place_of(layer, deployment, config, capacity, index)
            for index, layer in enumerate(theirs)
        ]
    )


def _in_place_of(
    theirs: Any, deployment: Deployment, config: Any, capacity: int, index: int
) -> Any:
    """Return our layer in place of one of theirs that keeps keys and values; else theirs.

    States of linear attention and convolutions, and layers without any, stay with transformers.
    """
    kind = type(theirs)
    if kind in (DynamicLayer, LinearAttentionAndFullAttentionLayer):
        window = None
    elif kind in (DynamicSlidingWindowLayer, LinearAttentionAndSlidingWindowAttentionLayer):
        window = _window(config, index)
    elif not issubclass(kind, DynamicLayer) and hasattr(theirs, "get_max_length"):
        return theirs
    else:
        raise ValueError(
            f"layers must be of full, sliding or linear attention, got one with {kind.__name__}"
        )
    cache = deployment.cache(capacity, window=window)
    if isinstance(theirs, LinearAttentionLayer):
        return _HybridLayer(cache, window, deployment.name, theirs.number_of_states)
    return _CacheLayer(cache, window, deployment.name)


def _window(config: Any, index: int) -> int | None:
    """Return the window of a layer; None where it sees all tokens, or chunks of them.

    A sliding_window that no mask is made of is only a number (Moshi).
    """
    types = getattr(config, "layer_types", None)
    window: int | None = getattr(config, "sliding_window", None)
    if types is not None:
        return window if "sliding" in types[index] else None
    return window if asks_of(config).window_masked else None


class _CacheLayer(CacheLayerMixin):  # type: ignore[misc] # of a package without types
    """One layer's cache in the form that transformers' `Cache` keeps."""

    is_compileable = False
    is_croppable = False
    supports_early_init = False

    def __init__(self, cache: LayerCache, window: int | None, name: str) -> None:
        """Wrap a layer's cache, of the deployment `name`."""
        CacheLayerMixin.__init__(self)
        self.cache = cache
        # Whether the mask has to be cut to the keys that are left.
        self.is_sliding = cache.kind.windowed
        self.sliding_window = window
        self.is_initialized = False
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self._name = name
        self._call: object = None

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the first tokens bring all that has to be known."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append new tokens and return what `attention_of` attends to.

        Raises:
            ValueError: The model has computed an attention of its own since the tokens before.
        """
        call = last_call.get(self._name)
        if self.is_initialized and call is self._call:
            raise ValueError(
                f"the attention of deployment {self._name} was not called for the tokens before: "
                f"the model does not use attn_implementation={_named(self._name)}"
            )
        held = self.cache.append(key_states, value_states)
        if not self.is_initialized:
            # Some models look whether a layer holds any; what it holds is not for them.
            self.keys = self.values = unreadable(key_states, key_states.shape[2])
        self.is_initialized, self._call = True, call
        # What is held must not hold what carries it.
        if not isinstance(held, CachedPlanes):
            key, value = key_states.view_as(key_states), value_states.view_as(value_states)
        elif self.cache.readable:
            key, value = held.taken()
        else:
            kept = self.cache.kept(held.length)
            key, value = (unreadable(part, kept) for part in (key_states, value_states))
        # Both, so that it is seen where a model changes one of them before it attends.
        setattr(key, HELD, held)
        setattr(value, HELD, held)
        return key, value

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys the next step attends to, and the position of the first."""
        length = self.cache.length
        total = length + query_length
        kept = self.cache.kept(total) if length else total  # a prompt attends to all of itself
        return kept, total - kept

    def get_seq_length(self) -> int:
        """Return how many tokens were seen."""
        return self.cache.length

    def get_max_length(self) -> int:
        """Return how many tokens there is room for."""
        return self.cache.capacity

    def reset(self) -> None:
        """Forget all tokens."""
        self.cache.reset()
        self.is_initialized, self.keys, self.values = False, None, None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Refuse beam search."""
        raise NotImplementedError("this cache does not change the order of its sequences")

    batch_repeat_interleave = batch_select_indices = reorder_cache

    def activate_past_recording(self) -> None:
        """Refuse what proposes tokens and takes some of them back, before it starts."""
        raise ValueError(
            "assisted generation (prompt_lookup_num_tokens, assistant_model) is not supported "
            "with a deployment's cache, which takes no tokens back: leave past_key_values out"
        )

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse to take tokens back."""
        self.activate_past_recording()


class _HybridLayer(_CacheLayer, LinearAttentionAndFullAttentionLayer):  # type: ignore[misc]
    """Beside the keys and values, states of linear attention, which transformers keeps."""

    def __init__(self, cache: LayerCache, window: int | None, name: str, states: int) -> None:
        """Wrap a layer's cache, with so many states beside it."""
        LinearAttentionLayer.__init__(self, number_of_states=states)
        _CacheLayer.__init__(self, cache, window, name)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Prepare the states."""
        LinearAttentionLayer.lazy_initialization(self, *args, **kwargs)

    def reset(self) -> None:
        """Forget all tokens and states."""
        LinearAttentionLayer.reset(self)
        _CacheLayer.reset(self)


def _named(deployment: str) -> str:
    return f"goldilocks_{deployment}"


def _mask(*, local_size: int | None = None, config: Any = None, **sizes: Any) -> Tensor | None:
    """Return which keys each row sees, or None where score_mod and causality say it.

    transformers leaves out a mask where causality says all. Here a window needs none either where
    the attention is told of it.
    """
    asks = asks_of(config)
    if (
        local_size is not None
        and asks.window_told
        and getattr(config, "sliding_window", None) == local_size
        and getattr(config, "attention_chunk_size", None) is None
    ):
        local_size = None
        left_to_attention.add(type(config))
    if local_size is None and _sees_all(**sizes):
        return None
    mask: Tensor | None = sdpa_mask(local_size=local_size, config=config, **sizes)
    return mask


def _sees_all(
    *,
    q_length: int,
    attention_mask: Tensor | None = None,
    allow_is_causal_skip: bool = True,
    **_: object,
) -> bool:
    """Tell whether the row of one new token sees all keys.

    `sdpa_mask` says so, too, but not of a step that is captured: some versions of transformers
    make a mask whenever a stream captures.
    """
    return q_length == 1 and attention_mask is None and allow_is_causal_skip
