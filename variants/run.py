"""A configuration bound to inputs: the steps that are measured."""

from __future__ import annotations

import torch
from torch import Tensor

from variants.configuration import Configuration
from variants.inputs import random_hidden, random_weights
from variants.layer import AttentionLayer


class Run:
    """The consecutive steps of a workload on one layer.

    `restart()`, then `step(0)`, `step(1)` and so on. Prefill is one step; decode is `new_tokens`
    of them on a growing context.
    """

    def __init__(self, configuration: Configuration, device: torch.device, seed: int) -> None:
        """Build layer, inputs and filled cache on `device`."""
        workload = configuration.workload
        self.configuration = configuration
        self.layer = AttentionLayer(configuration, random_weights(workload, device, seed))
        self.steps = workload.new_tokens if workload.decodes else 1
        dtype = self.layer.precision.dtype
        first = workload.seq_len if self.layer.reuses_cache else 0
        shape = (workload.batch, workload.capacity - first, workload.hidden_size)
        self._hidden = hidden = torch.empty(shape, dtype=dtype, device=device)
        for sequence in range(workload.batch):
            hidden[sequence] = random_hidden(workload, sequence, device, seed)[first:]
        if self.layer.reuses_cache:
            self.layer.fill(
                lambda sequence: random_hidden(workload, sequence, device, seed)[
                    : workload.seq_len
                ]
            )
            self._inputs = [hidden[:, i : i + 1] for i in range(self.steps)]
        elif workload.decodes:
            self._inputs = [hidden[:, : workload.seq_len + i + 1] for i in range(self.steps)]
        else:
            self._inputs = [hidden]

    def restart(self) -> None:
        """Return to the state before the first step."""
        self.layer.kept = None
        if self.layer.cache is not None:
            self.layer.cache.truncate(self.configuration.workload.seq_len)

    def step(self, index: int) -> Tensor:
        """Run the step `index`, which must follow the one before it."""
        out: Tensor = self.layer(self._inputs[index])
        return out

    def resident_bytes(self) -> int:
        """Return the bytes of what exists between steps: weights, cache, inputs, bias."""
        layer = self.layer
        return layer.weight_bytes + layer.cache_bytes + self._hidden.nbytes + layer.bias_bytes

    def new_rows(self, out: Tensor) -> Tensor:
        """Return the part of a step's output that the reference holds too."""
        return out[:, -1:] if self.configuration.workload.decodes else out
