"""Decode steps of a transformers model, replayed behind an unchanged `generate`."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from variants.deploy.captured_step import CapturedStep, CaptureWarning
from variants.deploy.model_cache import Buffers, ModelCache
from variants.deploy.step_state import NotCapturableError
from variants.deploy.targets import obstacle_of_choice
from variants.hf.captured_cache import BufferSets, CapturedCache, step_cache
from variants.hf.compiled_forward import CompiledForward
from variants.hf.obstacles import (
    obstacle_of_call,
    obstacle_of_context,
    obstacle_of_model,
)

if TYPE_CHECKING:
    from variants.deploy.deployment import Deployment

_REPLACED = ("forward", "_prepare_cache_for_generation")
# Ways of `generate` that feed one token a step, and change the order of sequences at most.
_MODES = ("greedy_search", "sample", "beam_search", "beam_sample")


class CapturedDecoding:
    """Has `generate` use our cache, and replays a graph where it asks for one more token.

    Also a context manager. What cannot be captured runs as without it, and a `CaptureWarning`
    says why, once for each reason. Weights that are replaced are noticed at the next prompt; what
    else changes how the model computes (an adapter that is switched off) is not: remove this and
    capture again.
    """

    def __init__(
        self,
        model: Any,
        deployment: Deployment,
        implementation: str,
        layers: int,
        capacity: int,
        *,
        compiled: bool = False,
    ) -> None:
        """Take the model's place; `implementation` is the name of the deployment's attention.

        Raises:
            ValueError: The model has another attention, is captured already, or there is no room
                for a prompt and a token.
        """
        if capacity < 2:
            raise ValueError(f"capacity must hold a prompt and a token, got {capacity}")
        attention = model.config._attn_implementation
        if attention != implementation:
            raise ValueError(
                f"attention must be the deployment's, {implementation}; the model has {attention}"
            )
        if "_prepare_cache_for_generation" in vars(model):
            raise ValueError("the model's decoding is captured already: remove() that first")
        self.capacity, self._layers = capacity, layers
        self._model, self._choice, self._implementation = model, deployment.model, implementation
        self._said: set[str] = set()
        self._sets = BufferSets(self._empty, self._capture)
        self._pool: object | None = None
        self._weights: tuple[object, ...] = ()
        self._trains = False
        self._obstacle: str | None = None  # of the model, at the last prompt
        self._output: Any = None  # the class of what the model returns
        self._before = {name: vars(model)[name] for name in _REPLACED if name in vars(model)}
        self._forward, self._prepare_cache = (getattr(model, name) for name in _REPLACED)
        self._compiled = (
            CompiledForward(model, self._forward, deployment.attention) if compiled else None
        )
        self._parameters = tuple(inspect.signature(self._forward).parameters)
        never = obstacle_of_choice(deployment.model) or obstacle_of_model(model)
        self.active = never is None
        if never is not None:
            self._say(never)
            return
        if model.device.type != "cuda":
            self._say(f"{model.device.type} has no CUDA graphs")
        model.forward = _in_place_of(self._forward, self._called)
        model._prepare_cache_for_generation = _in_place_of(self._prepare_cache, self._cached)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    @property
    def ranges(self) -> dict[int, tuple[int, ...]]:
        """By batch, the ends of the ranges of lengths for which there is a step."""
        found: dict[int, set[int]] = {}
        for step in self._sets.steps():
            found.setdefault(step.cache.batch, set()).update(step.ranges)
        return {batch: tuple(sorted(ends)) for batch, ends in sorted(found.items()) if ends}

    def cache(self) -> Any:
        """Return an empty cache for `past_key_values=`: to generate on behind an answer."""
        return CapturedCache(self._sets, self._layers, self.capacity)

    def remove(self) -> None:
        """Give the model back as it was, and free graphs and buffers. Caches in use stay valid."""
        if self.active:
            for name in _REPLACED:
                delattr(self._model, name)
            for name, value in self._before.items():
                setattr(self._model, name, value)
        self.active = False
        self._sets.forget()

    def _say(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            warnings.warn(
                f"decoding is not captured, kernels are launched one by one: {reason}",
                CaptureWarning,
                stacklevel=4,
            )

    def _empty(self, batch: int, buffers: list[Buffers] | None) -> ModelCache:
        return ModelCache(
            self._choice,
            layers=self._layers,
            batch=batch,
            capacity=self.capacity,
            device=self._model.device,
            buffers=buffers,
        )

    def _capture(self, cache: ModelCache) -> CapturedStep:
        if self._pool is None and self._model.device.type == "cuda":
            self._pool = torch.cuda.graph_pool_handle()
        step: Callable[..., Tensor] = functools.partial(
            self._step, step_cache(cache, self.capacity)
        )
        if self._compiled is not None:
            step = self._compiled_step(self._compiled, cache, step)
        return CapturedStep(step, cache, pool=self._pool)

    def _compiled_step(
        self, compiled: CompiledForward, cache: ModelCache, plain: Callable[..., Tensor]
    ) -> Callable[..., Tensor]:
        given = compiled.given(cache)
        tried = False

        def step(input_ids: Tensor, position_ids: Tensor) -> Tensor:
            nonlocal tried
            if not tried:
                # Says in our words why a step cannot be captured. Its token is stored again.
                plain(input_ids, position_ids)
                tried = True
            return self._logits(compiled(cache, given, input_ids, position_ids))

        return step

    def _step(self, cache: Any, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Compute the logits of one token: what is captured."""
        out = self._forward(
            input_ids=input_ids,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        )
        return self._logits(out)

    def _logits(self, out: Any) -> Tensor:
        more = [name for name in out if name not in ("logits", "past_key_values")]
        if more:
            raise NotCapturableError(f"the model returns {', '.join(more)} beside logits")
        self._output = type(out)
        logits: Tensor = out.logits
        return logits

    def _cached(
        self,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        """Give `generate` our cache where it would make one of its own."""
        if (
            self._model.config._attn_implementation == self._implementation
            and generation_config.use_cache is not False
            and model_kwargs.get("past_key_values") is None
        ):
            obstacle = self._obstacle_to_generate(
                generation_config, generation_mode, max_cache_length
            )
            if obstacle is None:
                model_kwargs["past_key_values"] = self.cache()
                return
            self._say(obstacle)
        self._prepare_cache(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )

    def _obstacle_to_generate(self, config: Any, mode: Any, tokens: int) -> str | None:
        if config.cache_implementation is not None:
            return f"cache_implementation {config.cache_implementation} is asked for"
        if mode.value not in _MODES or config.is_assistant:
            return f"{mode.value.replace('_', ' ')} takes back tokens of its cache"
        if tokens > self.capacity:
            return f"up to {tokens} tokens are asked for, and capacity is {self.capacity}"
        return None

    def _called(self, *args: Any, **kwargs: Any) -> Any:
        """Replay what is a step; call the model with all else."""
        cache = kwargs.get("past_key_values")
        if not isinstance(cache, CapturedCache) or cache.lease.sets is not self._sets:
            return self._forward(*args, **kwargs)
        given = dict(zip(self._parameters, args, strict=False)) | kwargs
        ids, length = given.get("input_ids"), cache.length
        step = cache.lease.step
        if step is None or ids is None or length == 0 or ids.shape[1] != 1:
            self._look_again()
            return self._forward(**given)
        obstacle = (
            self._obstacle
            or obstacle_of_call(given, len(ids), length)
            or obstacle_of_context(ids.device, self._trains)
            or step.refused
        )
        if obstacle is None:
            try:
                return self._replayed(step, cache, given)
            except NotCapturableError as error:
                obstacle = step.refused = str(error)
        self._say(obstacle)
        return self._forward(**given)

    def _replayed(self, step: CapturedStep, cache: CapturedCache, given: dict[str, Any]) -> Any:
        ids, positions = given["input_ids"], given.get("position_ids")
        if positions is None:
            positions = torch.full_like(ids, cache.length)
        step.cache.pad(given.get("attention_mask"))
        logits = step.replay(ids, positions.expand_as(ids))
        return self._output(logits=logits, past_key_values=cache)

    def _look_again(self) -> None:
        """Notice at a prompt what has changed about the model."""
        model = self._model
        self._obstacle = obstacle_of_model(model)
        if model.config._attn_implementation != self._implementation:
            self._obstacle = f"attention is now {model.config._attn_implementation}"
        self._trains = any(weight.requires_grad for weight in model.parameters())
        weights = tuple((weight.data_ptr(), weight.dtype) for weight in model.parameters())
        if weights != self._weights:
            self._weights = weights
            self._sets.forget()


def _in_place_of(original: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls ours and has the original's signature, which is looked at."""

    @functools.wraps(original)
    def called(*args: Any, **kwargs: Any) -> Any:
        return ours(*args, **kwargs)

    return called
