"""A model whose attention and cache are the default's or the winner's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from variants import hf
from variants.configuration import Configuration
from variants.deploy.captured_step import CaptureWarning
from variants.deploy.deployment import Deployment
from variants.deploy.dispatched_attention import DispatchWarning
from variants.deploy.rest_of_model import attention_layers, counting_cache, only_the_rest
from variants.deploy.targets import obstacle_to
from variants.layer.layer import PROJECTIONS
from variants.workload import Phase

DEFAULT, WINNER = "default", "winner"
Given = Callable[[], Mapping[str, Any]]


class Sides:
    """Gives a model one side's attention, cache and projections at a time."""

    def __init__(self, model: Any, loaded: Deployment, capacity: int) -> None:
        """Register the winner; the model is left as it is.

        Args:
            model: Of the deployment's type.
            loaded: The winner.
            capacity: Tokens of a sequence, prompt and answer together.
        """
        self._model, self._loaded, self._capacity = model, loaded, capacity
        self.attention = model.config._attn_implementation
        self._names = {DEFAULT: self.attention, WINNER: hf.register(loaded)}
        self.not_captured = _obstacle(loaded.configurations, loaded)
        self.notes: dict[str, None] = {}
        self._projections = {DEFAULT: self._held()}
        if loaded.model.quantization != "none":
            loaded.quantize(model)
        self._projections[WINNER] = self._held()
        self._put(DEFAULT)

    def _held(self) -> list[dict[str, nn.Module]]:
        return [
            {name: layer.get_submodule(name) for name in PROJECTIONS}
            for layer in attention_layers(self._model)
        ]

    def _put(self, side: str) -> None:
        for layer, held in zip(
            attention_layers(self._model), self._projections[side], strict=True
        ):
            for name, projection in held.items():
                setattr(layer, name, projection)

    @contextmanager
    def side(self, side: str, *, rest: bool = False) -> Iterator[Given]:
        """Make a side's attention the model's; yields what each call of `generate` is given.

        Args:
            side: `DEFAULT` or `WINNER`.
            rest: Leave out what a study measures: projections, cache and attention.
        """
        model = self._model
        model.set_attn_implementation(self._names[side])
        self._put(side)
        with ExitStack() as until, self._listening():
            if rest:
                until.enter_context(only_the_rest(model))
            captured = side == WINNER and not self.not_captured
            if captured:
                until.enter_context(
                    hf.capture_decoding(model, self._loaded, capacity=self._capacity)
                )
                yield dict
            elif rest:
                yield lambda: {"past_key_values": counting_cache(model)}
            elif side == WINNER:
                yield lambda: {"past_key_values": self._cache()}
            else:
                yield dict

    def _cache(self) -> Any:
        return hf.past_key_values(self._loaded, self._model.config, self._capacity)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Keep what is said of a capture that fails, and of calls unlike what was measured."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            yield
        for warning in said:
            if issubclass(warning.category, CaptureWarning):
                self.not_captured = self.not_captured or str(warning.message)
            elif issubclass(warning.category, DispatchWarning):
                self.notes[str(warning.message)] = None


def _obstacle(configurations: tuple[Configuration, ...], loaded: Deployment) -> str:
    """Say why decode steps of a winner are not captured; empty where they are."""
    decoding = [of for of in configurations if of.workload.phase is Phase.DECODE]
    said = (obstacle_to("transformers-captured", of, loaded.device.kind) for of in decoding)
    return next((obstacle for obstacle in said if obstacle), "")
