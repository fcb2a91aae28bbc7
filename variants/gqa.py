"""The gqa axis: how grouped heads (fewer key/value heads than query heads) reach a backend."""

from __future__ import annotations

from dataclasses import dataclass

from variants.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedHeads:
    """One choice of the gqa axis."""

    name: str
    summary: str
    repeats: bool  # keys and values are copied for each query head


GQA = Registry(
    "gqa",
    [
        GroupedHeads(
            name="native", summary="the backend reads each key/value head once", repeats=False
        ),
        GroupedHeads(
            name="repeat_kv", summary="keys and values are repeated to q_heads", repeats=True
        ),
    ],
)
