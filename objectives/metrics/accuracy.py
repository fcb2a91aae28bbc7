"""The error of a configuration against the reference."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor

from variants.layer.reference import reference_results
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


def largest_error(results: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """Return the largest relative error of the output and, in training, of any gradient.

    Raises:
        ValueError: One of them has another shape than it must have.
    """
    for name, expected in reference.items():
        if results[name].shape != expected.shape:
            raise ValueError(
                f"{name} must have shape {tuple(expected.shape)}, got {tuple(results[name].shape)}"
            )
    return max(relative_error(results[name], expected) for name, expected in reference.items())


class References:
    """Reference results by workload, on the host, the least recently used dropped first."""

    def __init__(self, device: torch.device, seed: int, *, max_bytes: int = 2**31) -> None:
        """Compute references on `device` from the inputs of `seed`."""
        self._device, self._seed, self._max_bytes = device, seed, max_bytes
        self._results: OrderedDict[str, Mapping[str, Tensor]] = OrderedDict()

    def of(self, workload: Workload) -> Mapping[str, Tensor]:
        """Return the reference results of `workload`, computing them when they are not kept."""
        # Neither the number of layers nor anything about the variant changes it.
        key = workload.model_copy(update={"layers": 1}).key
        if key not in self._results:
            self._results[key] = reference_results(workload, self._device, self._seed)
        self._results.move_to_end(key)
        while len(self._results) > 1 and self._kept_bytes() > self._max_bytes:
            self._results.popitem(last=False)
        return self._results[key]

    def _kept_bytes(self) -> int:
        kept = (tensor for results in self._results.values() for tensor in results.values())
        return sum(tensor.nbytes for tensor in kept)
