"""How many keys each sequence has, as a tensor on the device: for kernels that read it there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from variants.backends.backend import LastCall, times_written
from variants.caches import StepPosition

if TYPE_CHECKING:
    import torch

    from variants.backends.backend import Attention


class KeyCounts:
    """Counts of keys, int32 `(batch,)`, the same for all sequences.

    Those of all known calls are made once. Of another call that of the last is kept: the layers of
    a model make the same one in turn.
    """

    def __init__(self, attention: Attention) -> None:
        """Make the counts of the calls that are known."""
        import torch

        self._ones = torch.ones(attention.batch, dtype=torch.int32, device=attention.device)
        lengths = sorted({place.position + place.q_len for place in attention.places})
        self._known = {length: self._ones * length for length in lengths}
        self._last: LastCall | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the counts that are kept."""
        return self._ones.nbytes * (1 + len(self._known))

    def of(self, place: StepPosition) -> torch.Tensor:
        """Return the counts of a call: the keys up to the last of its rows."""
        position, length = place.at, place.position + place.q_len
        if position is None and length in self._known:
            return self._known[length]
        last, written = self._last, times_written(position)
        if last is not None and last.place.at is position and last.serves(place, written):
            made: torch.Tensor = last.made
            return made
        counts = self._ones * length if position is None else self.at(position)
        self._last = LastCall(place, written, counts)
        return counts

    def at(self, position: torch.Tensor) -> torch.Tensor:
        """Return the counts of one row at `position`, `(1,)` on the device, in one launch."""
        return self._ones + position[0]
