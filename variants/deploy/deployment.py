"""A search result at work: attention, its cache and its quantization, for the user's own model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from variants.configuration import Configuration
from variants.deploy.dispatched_attention import DispatchedAttention
from variants.deploy.layer_cache import LayerCache
from variants.deploy.model_cache import ModelCache
from variants.deploy.model_choice import ModelChoice
from variants.device import Device
from variants.layer.inputs import Weights, random_weights
from variants.layer.layer import PROJECTIONS, AttentionLayer
from variants.precisions import PRECISIONS
from variants.quantizations import QUANTIZATIONS, quantize_projections
from variants.workload import Workload


class Deployment:
    """What `variants.load` returns.

    One choice of precision, quantization, cache, kv_dtype and gqa for a whole model (`model`);
    backend and execution follow each call (`attention`).
    """

    def __init__(
        self,
        configurations: Sequence[Configuration],
        model: ModelChoice,
        device: Device,
        name: str,
    ) -> None:
        """Serve `configurations`, one a workload; `name` tells this result from others."""
        self.configurations = tuple(configurations)
        self.model, self.device, self.name = model, device, name
        self.attention = DispatchedAttention(configurations, model, device)

    def __repr__(self) -> str:
        served = ", ".join(
            f"{of.workload.key} by {of.variant.backend} {of.variant.execution}"
            for of in self.configurations
        )
        return f"Deployment({self.model.label} on {self.device.name}; {served})"

    @property
    def dtype(self) -> torch.dtype:
        """The type that the model must have: `model.to(deployment.dtype)`."""
        return PRECISIONS[self.model.precision].dtype

    def cache(self, capacity: int, *, window: int | None = None) -> LayerCache:
        """Return an empty cache for one layer of the model.

        Args:
            capacity: Tokens of a sequence, prompt and answer together.
            window: Keys that a query sees, where the layer has a sliding_window.

        Raises:
            ValueError: The choice keeps no cache, or one that only windows can have.
        """
        return LayerCache(self.model, capacity=capacity, window=window)

    def model_cache(
        self, *, layers: int, batch: int, capacity: int, device: torch.device | str | None = None
    ) -> ModelCache:
        """Return an empty cache of all layers of a model, for steps that are captured.

        Args:
            layers: Of the model; `cache[layer]` is what attention takes.
            batch: Sequences.
            capacity: Tokens of a sequence, prompt and answer together.
            device: Where the model is; the deployment's own kind if not given.

        Raises:
            ValueError: The choice has no cache that can be written where only the device knows.
        """
        return ModelCache(
            self.model,
            layers=layers,
            batch=batch,
            capacity=capacity,
            device=torch.device(self.device.kind if device is None else device),
        )

    def quantize(self, module: nn.Module, names: tuple[str, ...] = PROJECTIONS) -> int:
        """Quantize the projections of every attention layer in `module`, in place, as chosen.

        Args:
            module: A model, already of this type and on its device.
            names: What the projections of an attention layer are called.

        Returns:
            How many layers were found.

        Raises:
            ValueError: There is no such layer, or it is not of the precision that was chosen.
            QuantizationError: A projection was left as it was.
        """
        layers = [
            found
            for found in module.modules()
            if all(isinstance(getattr(found, name, None), nn.Linear) for name in names)
        ]
        if not layers:
            raise ValueError(f"module must hold layers with {', '.join(names)}, got none")
        types = {layer.get_parameter(f"{name}.weight").dtype for layer in layers for name in names}
        if types != {self.dtype}:
            got = ", ".join(sorted(map(str, types)))
            raise ValueError(f"projections must be of {self.dtype} before quantization, got {got}")
        if QUANTIZATIONS[self.model.quantization].quantize is not None:
            for layer in layers:
                quantize_projections(layer, names, self.model.quantization)
        return len(layers)

    def layer(
        self, *, weights: Weights | None = None, capacity: int | None = None, **workload: Any
    ) -> AttentionLayer:
        """Return a layer with projections that computes a workload exactly as it was measured.

        Args:
            weights: Unrounded projections; random ones if not given, to be replaced through
                `load_state_dict` (`q_proj.weight`, `k_proj.weight`, `v_proj.weight`,
                `o_proj.weight`) where they are not quantized.
            capacity: Tokens that a cache can hold; the workload's own if not given.
            **workload: Fields that pick one of several workloads, `batch=4, seq_len=2048`.

        Raises:
            ValueError: The fields do not pick one workload.
        """
        of = picked(self.configurations, workload)
        if len(of) != 1:
            keys = ", ".join(one.workload.key for one in of or self.configurations)
            raise ValueError(
                f"the fields must pick one workload, got {len(of)}; there are: {keys}"
            )
        if weights is None:
            weights = random_weights(of[0].workload, torch.device(self.device.kind), seed=0)
        return AttentionLayer(of[0], weights, capacity=capacity)


def picked(configurations: Sequence[Configuration], fields: dict[str, Any]) -> list[Configuration]:
    """Return the configurations whose workload has these values.

    Raises:
        ValueError: A field is none of a workload's.
    """
    unknown = fields.keys() - Workload.model_fields.keys()
    if unknown:
        raise ValueError(
            f"workload fields must be among {', '.join(Workload.model_fields)}; "
            f"got {', '.join(sorted(unknown))}"
        )
    return [
        of
        for of in configurations
        if all(getattr(of.workload, name) == value for name, value in fields.items())
    ]
