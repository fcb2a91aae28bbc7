"""The attention of one architecture, as the axes of a workload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from variants.axes import Choice
from variants.user_error import UserError


class ModelError(UserError):
    """A configuration that cannot be expressed; the message names the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The attention of one architecture."""

    name: str
    q_heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    layers: Mapping[str, int]  # how many layers attend to their own tokens, by their score_mod

    def axes(self, score_mods: tuple[Choice, ...] = ()) -> dict[str, tuple[Choice, ...]]:
        """Return the workload axes of the model.

        Args:
            score_mods: The kinds of layers that are wanted; all of them if empty.

        Raises:
            ModelError: The model has no such layers, or as many of one kind as of no other, which
                one axis `layers` cannot say.
        """
        unknown = [str(mod) for mod in score_mods if mod not in self.layers]
        if unknown:
            raise ModelError(
                f"score_mod of {self.name} must be one of {', '.join(self.layers)}; "
                f"got {', '.join(unknown)}"
            )
        kinds = {m: n for m, n in self.layers.items() if not score_mods or m in score_mods}
        if len(set(kinds.values())) > 1:
            counts = ", ".join(f"{count} with {mod}" for mod, count in kinds.items())
            raise ModelError(
                f"score_mod must pick one kind of the layers of {self.name} ({counts}), got none"
            )
        return {
            "q_heads": (self.q_heads,),
            "kv_heads": (self.kv_heads,),
            "head_dim": (self.head_dim,),
            "hidden_size": (self.hidden_size,),
            "layers": (next(iter(kinds.values())),),
            "score_mod": tuple(kinds),
        }
