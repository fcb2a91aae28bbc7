"""What a `model_type` makes of the fields of its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from variants.models.fields import Fields
from variants.models.layer_kinds import LayerRule, every_layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What the sizes are called; several names where a class takes several for one."""

    q_heads: tuple[str, ...] = ("num_attention_heads",)
    kv_heads: tuple[str, ...] = ("num_key_value_heads",)  # empty: as many as query heads
    head_dim: tuple[str, ...] = ("head_dim",)  # empty: hidden_size / q_heads, whatever a file says
    hidden_size: tuple[str, ...] = ("hidden_size",)
    layers: tuple[str, ...] = ("num_hidden_layers",)
    window: tuple[str, ...] = ("sliding_window",)


STANDARD = Names()
COMPUTED_HEAD_DIM = Names(head_dim=())
# Every head has its own keys and values, and a head is its share of the hidden size.
MULTI_HEAD = Names(kv_heads=(), head_dim=())


def unchanged(fields: Fields) -> tuple[str, ...]:
    """Scores are left as they are."""
    return ()


@dataclass(frozen=True, slots=True)
class Family:
    """One declared family: the fields of its attention, and what is so where they are left out."""

    model_types: tuple[str, ...]
    _: KW_ONLY
    # What its class has where a file leaves a size out.
    q_heads: int | None = None  # None: the file must say it
    kv_heads: int | None = None  # None: as many as query heads
    head_dim: int | None = None  # None: hidden_size / q_heads
    hidden_size: int | None = None  # None: the file must say it
    layers: int | None = None  # None: the file must say it
    window: int | None = None  # None: no window

    names: Names = STANDARD
    kinds: LayerRule = every_layer
    # What all layers do to their scores, beside a window: `softcap:50`.
    score_mods: Callable[[Fields], tuple[str, ...]] = unchanged
    # Key/value heads where more than one field says them: (fields, query heads) -> heads.
    kv_rule: Callable[[Fields, int], int] | None = None
    # Layers where a field says them that is no number.
    layers_rule: Callable[[Fields], int] | None = None
    # A switch without which there is no window, whatever `sliding_window` is.
    window_switch: str | None = None
    # Regular expression of fields that mean nothing for this family's attention, but might for
    # another's.
    ignored: str | None = None
