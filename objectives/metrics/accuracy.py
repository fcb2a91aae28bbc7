"""The error of a configuration against the reference, when it is new and when it is timed."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor

from variants.layer.reference import reference_results
from variants.layer.run import Run
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


# Of each result of a step, in the check of what was timed. Of more, rows are sampled: the check is
# to cost a trial little. `python -m benchmarks.second_check` measures how much.
CHECKED_ELEMENTS = 2**15


class TimedOutputs:
    """The results of a run's steps when they were timed last, to be checked once timing is over.

    A kernel that is right at first may be wrong later: one that tunes itself, or switches after
    some calls. So what is checked is what was timed, on the stream, at the addresses and in the
    graph of the last pass, and no step is run for it.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._alive: Tensor | None = None  # the output of the step that ran last
        self._kept: dict[int, Mapping[str, Tensor]] = {}

    def step(self, index: int) -> None:
        """Run the step `index` of the run. The output before is freed first, as in any loop."""
        self._alive = None
        self._alive = self._run.step(index)

    def keep(self, index: int) -> None:
        """Keep the results of the step `index`, which has just been run and timed."""
        if self._alive is None:
            return
        if self._run.steps > 1:  # decode: of few tokens, and a graph overwrites its output
            results = self._run.results(self._alive)
            self._kept[index] = {name: tensor.clone() for name, tensor in results.items()}

    def error(self, reference: Mapping[str, Tensor], seed: int) -> float:
        """Return the largest relative error of what was kept, of rows that `seed` chooses.

        Raises:
            ValueError: A step was not timed, or a result has another shape than it must have.
        """
        if self._run.layer.device.type == "cuda":
            torch.cuda.synchronize()  # steps ran on several streams
        if self._run.steps == 1 and self._alive is not None:
            self._kept[0] = self._run.results(self._alive)
        if len(self._kept) < self._run.steps:
            raise ValueError(f"{len(self._kept)} of {self._run.steps} steps were timed")
        generator = torch.Generator().manual_seed(seed)
        return max(self._error(name, reference[name], generator) for name in reference)

    def _error(self, name: str, reference: Tensor, generator: torch.Generator) -> float:
        """Return the relative error of one result over all steps."""
        steps = [self._kept[index][name] for index in range(self._run.steps)]
        expected = reference.split(1, dim=1) if len(steps) > 1 else [reference]
        most = max(1, CHECKED_ELEMENTS // reference.shape[-1])
        ours, theirs = [], []
        for result, wanted in zip(steps, expected, strict=True):
            if result.shape != wanted.shape:
                raise ValueError(
                    f"{name} must have shape {tuple(wanted.shape)}, got {tuple(result.shape)}"
                )
            result, wanted = result.detach().flatten(0, -2), wanted.flatten(0, -2)
            if len(wanted) > most:
                rows = torch.randperm(len(wanted), generator=generator)[:most].sort().values
                result, wanted = result[rows.to(result.device)], wanted[rows]
            ours.append(result.cpu())
            theirs.append(wanted)
        return relative_error(torch.cat(ours)[None], torch.cat(theirs)[None])


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
