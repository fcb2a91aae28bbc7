"""Where the next decode step stands, held on the device: position, padding and what is visible."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from variants.score_mods import parse_score_mod

if TYPE_CHECKING:
    from variants.score_mods import VisibleFunction


class NotCapturableError(RuntimeError):
    """A step cannot be computed at a position that only the device knows; the message says why."""


class StepState:
    """What all layers of a model share in a step: one position for all sequences of a batch.

    Inside of `step`, what is computed reads its position from the device alone, so that a CUDA
    graph of it holds for every position in the range of lengths that it was made for.
    """

    def __init__(self, batch: int, capacity: int, device: torch.device) -> None:
        """Start at position 0, with no padding."""
        with torch.inference_mode(False):  # else only inference mode could write to them
            self.position = torch.zeros(1, dtype=torch.int64, device=device)
            # Which slots of the cache hold a token, and not padding.
            self._valid = torch.ones(batch, capacity, dtype=torch.bool, device=device)
            self._columns = torch.arange(capacity, device=device)
        self.keys: int | None = None  # that a step attends to; None outside of one
        self.padded = False  # some slots hold padding
        # What computes a step differs by that: where there is none, keys need only be counted.
        self.by_padding = False
        self._standing = 0  # what the device knows
        self._rules: dict[str, VisibleFunction] = {}
        self._seen: dict[str, Tensor] = {}

    @contextmanager
    def step(self, keys: int) -> Iterator[None]:
        """Compute one step over the first `keys` slots of the cache, and advance the position."""
        self.keys = keys
        try:
            yield
            self.position += 1
        finally:
            self.keys = None
            self._seen.clear()

    def stand_at(self, position: int) -> None:
        """Tell the device where the next step stands, unless that is where the last one ended."""
        if position != self._standing:
            self.position.fill_(position)
        self._standing = position

    def stepped(self) -> None:
        """Take note that a step was launched."""
        self._standing += 1

    def stand_unknown(self) -> None:
        """Have the device told at the next step, whatever it did."""
        self._standing = -1

    def pad(self, mask: Tensor | None) -> None:
        """Take a mask of `(batch, tokens)`: zero where a slot holds padding. None: no padding."""
        if mask is not None:
            self._valid[:, : mask.shape[1]].copy_(mask)
            self.padded = True
        elif self.padded:
            self._valid.fill_(True)
            self.padded = False

    def visible(self, score_mod: str) -> Tensor:
        """Return which keys the row of this step sees, booleans of `(batch, 1, 1, keys)`.

        Made once a step for all layers of a score_mod: they are given the same tensor.
        """
        assert self.keys is not None
        if score_mod not in self._seen:
            if score_mod not in self._rules:
                # Heads change scores, never what is visible.
                bound = parse_score_mod(score_mod).bind(1, self.position.device)
                self._rules[score_mod] = bound.visible
            columns = self._columns[: self.keys]
            seen = self._rules[score_mod](self.position[:, None], columns)
            # Whatever a score_mod sees ahead, as prefix_lm does, is not there yet.
            seen = seen & (columns <= self.position) & self._valid[:, : self.keys]
            self._seen[score_mod] = seen[:, None, None, :]
        return self._seen[score_mod]
