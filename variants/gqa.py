"""The gqa axis: how grouped heads (fewer key/value heads than query heads) reach a backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from variants.registry import Registry

if TYPE_CHECKING:
    import torch

    from variants.backends.backend import Support
    from variants.kv_dtypes import KeyValue
    from variants.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedHeads:
    """One choice of the gqa axis."""

    name: str
    summary: str
    # Gives each query head a key/value head of its own: from `(batch, kv_heads, kv_len, head_dim)`
    # and n it makes `(batch, kv_heads · n, kv_len, head_dim)`. None: the backend does not need it.
    repeat: Callable[[torch.Tensor, int], torch.Tensor] | None = None
    copies: bool = False  # the repeated keys and values exist in memory

    def kv_heads(self, workload: Workload) -> int:
        """Return how many key/value heads the backend is given."""
        return workload.kv_heads if self.repeat is None else workload.q_heads

    def given(self, kv: KeyValue, groups: int) -> KeyValue:
        """Return the keys and values that the backend is given, `groups` query heads to one."""
        if self.repeat is None:
            return kv
        return kv._replace(key=self.repeat(kv.key, groups), value=self.repeat(kv.value, groups))

    def reasons(self, backend: str, support: Support) -> Iterator[str]:
        """Say why a backend cannot be given grouped heads in this way."""
        if self.repeat is None and not support.grouped_heads:
            repeating = " or ".join(name for name, entry in GQA.items() if entry.repeat)
            yield f"backend {backend} needs kv_heads equal to q_heads, or gqa {repeating}"


def grouped_heads(choice: str | None) -> GroupedHeads:
    """Return the entry of a variant's choice; heads that are not grouped are given as they are."""
    return GQA["native" if choice is None else choice]


GQA = Registry(
    "gqa",
    [
        GroupedHeads(name="native", summary="the backend reads each key/value head once"),
        GroupedHeads(
            name="repeat_kv",
            summary="keys and values are repeated to q_heads",
            repeat=lambda heads, groups: heads.repeat_interleave(groups, dim=1),
            copies=True,
        ),
    ],
)
