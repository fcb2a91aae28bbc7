"""The error of a configuration against the reference."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor

from variants.reference import reference_output
from variants.workload import Workload


def relative_error(out: Tensor, reference: Tensor) -> float:
    """Return ‖out − ref‖ / ‖ref‖ over all elements; infinity when `out` has NaN or Inf.

    Works a sequence at a time in the reference's precision, so that it needs little memory.
    """
    difference = norm = 0.0
    for ours, theirs in zip(out, reference, strict=True):
        delta = ours.to(theirs.dtype) - theirs
        difference += float(torch.linalg.vector_norm(delta, dtype=torch.float64)) ** 2
        norm += float(torch.linalg.vector_norm(theirs, dtype=torch.float64)) ** 2
    error = math.sqrt(difference / norm)
    return error if math.isfinite(error) else math.inf


class References:
    """Reference outputs by workload, on the host, the least recently used dropped first."""

    def __init__(self, device: torch.device, seed: int, *, max_bytes: int = 2**31) -> None:
        """Compute references on `device` from the inputs of `seed`."""
        self._device, self._seed, self._max_bytes = device, seed, max_bytes
        self._outputs: OrderedDict[str, Tensor] = OrderedDict()

    def of(self, workload: Workload) -> Tensor:
        """Return the reference output of `workload`, computing it when it is not kept."""
        # Neither the number of layers nor anything about the variant changes it.
        key = workload.model_copy(update={"layers": 1}).key
        if key not in self._outputs:
            self._outputs[key] = reference_output(workload, self._device, self._seed)
        self._outputs.move_to_end(key)
        while len(self._outputs) > 1 and self._kept_bytes() > self._max_bytes:
            self._outputs.popitem(last=False)
        return self._outputs[key]

    def _kept_bytes(self) -> int:
        return sum(output.nbytes for output in self._outputs.values())
