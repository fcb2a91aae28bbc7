"""A decode step of a transformers model, compiled as a whole before it is captured."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from transformers.cache_utils import Cache, CacheLayerMixin

from variants.deploy.dispatched_attention import DispatchedAttention
from variants.deploy.model_cache import ModelCache
from variants.deploy.step_state import NotCapturableError
from variants.hf.attention_functions import PASSED, STEP
from variants.hf.step_operator import Stepping


class CompiledForward:
    """A model's forward in one decode step, compiled once for each batch.

    Attention and cache are one operator (`attend_in_step`), so that ranges of lengths need no
    compilation of their own.
    """

    def __init__(
        self, model: Any, forward: Callable[..., Any], attention: DispatchedAttention
    ) -> None:
        """Compile nothing yet."""
        own = model.config._attn_implementation
        configs = {id(part.config): part.config for part in model.modules() if _asks(part, own)}
        self._configs = list(configs.values())
        self._own = own
        self._stepping = Stepping(attention)
        self._forward: Any = torch.compile(_of_its_own(forward), fullgraph=True, dynamic=False)

    def given(self, cache: ModelCache) -> Any:
        """Return what stands for a model's cache in a compiled step."""
        position = cache.state.position
        return Cache(
            layers=[
                _PassingLayer((self._stepping.number, layer), position)
                for layer in range(len(cache))
            ]
        )

    def __call__(
        self, cache: ModelCache, given: Any, input_ids: Tensor, position_ids: Tensor
    ) -> Any:
        """Return what the model does for one token.

        Raises:
            NotCapturableError: It cannot be compiled as a whole.
        """
        with (
            self._attention_of_step(),
            self._stepping.on(cache),
            torch.inference_mode(False),
            torch.no_grad(),
        ):
            try:
                return self._forward(given, input_ids, position_ids)
            except TorchDynamoException as error:
                reason = str(error).strip().partition("\n")[0]
                raise NotCapturableError(
                    f"the model cannot be compiled as a whole ({reason}); leave compiled=True out"
                ) from error

    @contextmanager
    def _attention_of_step(self) -> Iterator[None]:
        """Have the model's layers call the operator."""
        for config in self._configs:
            config._attn_implementation_internal = STEP
        try:
            yield
        finally:
            for config in self._configs:
                config._attn_implementation_internal = self._own


def _asks(part: Any, implementation: str) -> bool:
    config = getattr(part, "config", None)
    return getattr(config, "_attn_implementation_internal", None) == implementation


def _of_its_own(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return the step's function with a code object of its own.

    Dynamo limits how often one code object is compiled, whichever models it is compiled for.
    """

    def step(cache: Any, input_ids: Tensor, position_ids: Tensor) -> Any:
        return forward(
            input_ids=input_ids,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        )

    return types.FunctionType(step.__code__.replace(), step.__globals__, closure=step.__closure__)


class _PassingLayer(CacheLayerMixin):  # type: ignore[misc] # of a package without types
    """Passes keys and values on to the operator, which appends them itself."""

    is_compileable = False
    is_croppable = False
    is_sliding = False
    supports_early_init = False

    def __init__(self, layer: tuple[int, int], position: Tensor) -> None:
        super().__init__()
        self.is_initialized = True
        self._layer, self._position = layer, position

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Return them as they are, and noted: a model may change them before it attends."""
        PASSED.key, PASSED.value, PASSED.layer = key_states, value_states, self._layer
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return sizes of which no mask is made: the operator knows what is visible."""
        return query_length, 0

    def get_seq_length(self) -> Any:
        """Return how many tokens were seen, on the device."""
        return self._position[0]

    def get_max_length(self) -> int:
        """Return -1: the operator's cache knows."""
        return -1
