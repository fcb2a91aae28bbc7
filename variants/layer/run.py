"""A configuration bound to inputs: the steps that are measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from variants.configuration import Configuration
from variants.layer.inputs import random_gradient, random_hidden, random_weights
from variants.layer.layer import PROJECTIONS, AttentionLayer

# Of PyTorch's allocator, which puts what is no larger than a MiB into segments of 2 MiB: it takes
# none of the room that a step's large tensors leave and need again.
MIB, ALIGNMENT = 2**20, 512


def _steps(hidden: Tensor) -> list[Tensor]:
    """Return the steps of `(steps, batch, hidden_size)`, each `(batch, 1, hidden_size)`."""
    return list(hidden[:, :, None].unbind())


@dataclass(frozen=True)
class _Training:
    """What training steps have beside their input, in buffers that live on between steps."""

    out_gradient: Tensor  # the gradient of the output, which a backward pass is given
    weight_gradients: Mapping[str, Tensor]  # by projection; gradients are accumulated in place

    @property
    def nbytes(self) -> int:
        return self.out_gradient.nbytes + self.gradient_bytes

    @property
    def gradient_bytes(self) -> int:
        return sum(gradient.nbytes for gradient in self.weight_gradients.values())


class Run:
    """The consecutive steps of a workload on one layer.

    `restart()`, then `step(0)`, `step(1)` and so on. Prefill is one step; so is train, forward
    and backward; decode is `new_tokens` of them on a growing context.
    """

    def __init__(self, configuration: Configuration, device: torch.device, seed: int) -> None:
        """Build layer, inputs and filled cache on `device`."""
        workload = configuration.workload
        self.configuration = configuration
        self.layer = AttentionLayer(configuration, random_weights(workload, device, seed))
        self.steps = workload.new_tokens if workload.decodes else 1
        dtype = self.layer.precision.dtype
        first = workload.seq_len if self.layer.reuses_cache else 0
        tokens = workload.capacity - first
        # One token more where steps take slices: one that fills the buffer would be contiguous,
        # unlike the others, and a compiled layer would recompile for it.
        room = tokens + (1 if workload.decodes and not self.layer.reuses_cache else 0)
        shape = (workload.batch, room, workload.hidden_size)
        self._hidden = hidden = torch.zeros(shape, dtype=dtype, device=device)
        self._room: Tensor | None = None  # in which inputs are moved
        for sequence in range(workload.batch):
            hidden[sequence, :tokens] = random_hidden(workload, sequence, device, seed)[first:]
        if self.layer.reuses_cache:
            cache = self.layer.fill(
                lambda sequence: random_hidden(workload, sequence, device, seed)[
                    : workload.seq_len
                ]
            )
            with torch.inference_mode():
                cache.mark(self.steps)
            # Each step on its own in memory, as a model makes it: linear layers multiply a slice
            # of every sequence as a batch of vectors, which reads the weights for each of them.
            self._hidden = torch.stack(hidden.unbind(1))
            self._inputs = _steps(self._hidden)
        elif workload.decodes:
            self._inputs = [hidden[:, : workload.seq_len + i + 1] for i in range(self.steps)]
        else:
            self._inputs = [hidden]
        self._training = self._prepare_training(seed) if workload.trains else None

    def _prepare_training(self, seed: int) -> _Training:
        """Make gradients that live on between steps, as they do where they are accumulated."""
        workload, hidden = self.configuration.workload, self._hidden
        out_gradient = torch.empty_like(hidden)
        for sequence in range(workload.batch):
            out_gradient[sequence] = random_gradient(workload, sequence, hidden.device, seed)
        hidden.requires_grad_()
        weight_gradients = {}
        for name in PROJECTIONS:
            weight = self.layer.get_parameter(f"{name}.weight")
            weight_gradients[name] = weight.grad = torch.zeros_like(weight)
        return _Training(out_gradient, weight_gradients)

    def restart(self) -> None:
        """Return to the state before the first step."""
        self.layer.kept = None
        self._hidden.grad = None
        if self._training is not None:
            for gradient in self._training.weight_gradients.values():
                gradient.zero_()
        if self.layer.cache is not None:
            with torch.inference_mode():
                self.layer.cache.rewind()

    @property
    def moves(self) -> bool:
        """Whether `move` does anything: decode steps on a cache, of few tokens."""
        return self.layer.reuses_cache and self._moved.nbytes <= MIB // 2

    @property
    def _moved(self) -> Tensor:
        """What lies elsewhere behind `move`: the input of a captured step, or of all steps."""
        return self._inputs[0] if self.layer.execution.captures else self._hidden

    def move(self, share: float) -> bool:
        """Let decode steps on a cache read their inputs elsewhere from here on.

        How long products of few tokens take depends on the addresses that they read and write. A
        captured step is captured again, and with its input its other tensors lie elsewhere.

        Args:
            share: How far into a MiB, from 0 to less than 1.

        Returns:
            Whether a step was captured.

        Raises:
            torch.OutOfMemoryError: There is no room for it; nothing is moved.
        """
        if not self.moves:
            return False
        hidden = self._moved
        nbytes = ALIGNMENT * int(share * ((MIB - hidden.nbytes) // ALIGNMENT))
        if self.layer.execution.captures:
            return self.layer.move_graph(nbytes)
        if self._room is None:
            self._room = hidden.new_empty(MIB // hidden.itemsize)
        # No view of it: compiled layers are guarded by what their inputs are views of.
        moved = hidden.new_empty(0).set_(
            self._room.untyped_storage(),
            nbytes // hidden.itemsize,
            hidden.shape,
            hidden.stride(),
        )
        self._inputs = _steps(moved.copy_(hidden))
        return False

    def step(self, index: int) -> Tensor:
        """Run the step `index`, which must follow the one before it. Returns its output."""
        out = self.forward(index)
        if self._training is None:
            return out
        self.backward(out)
        return out.detach()

    def forward(self, index: int) -> Tensor:
        """Run the first half of a training step, or the whole of another."""
        out: Tensor = self.layer(self._inputs[index])
        return out

    def backward(self, out: Tensor) -> None:
        """Run the second half of a training step.

        Raises:
            ValueError: The workload does not train.
        """
        if self._training is None:
            raise ValueError(f"there is no backward pass in {self.configuration.workload.key}")
        with self.layer.precision.applied():  # flex compiles its backward here
            out.backward(self._training.out_gradient)

    def resident_bytes(self) -> int:
        """Return the bytes of what exists between steps: weights, cache, inputs, bias."""
        layer = self.layer
        kept = layer.weight_bytes + layer.cache_bytes + self._hidden.nbytes + layer.bias_bytes
        return kept + (0 if self._training is None else self._training.nbytes)

    def gradient_bytes(self) -> int:
        """Return the bytes of the projections' gradients; 0 outside of training."""
        return 0 if self._training is None else self._training.gradient_bytes

    def results(self, out: Tensor) -> Mapping[str, Tensor]:
        """Return what the reference holds too: a step's output, and gradients in training."""
        if self._training is None:
            return {"out": out[:, -1:] if self.configuration.workload.decodes else out}
        hidden = self._hidden.grad
        if hidden is None:  # an output that does not depend on its input
            hidden = torch.zeros_like(self._hidden)
        return {"out": out, "hidden": hidden, **self._training.weight_gradients}
