"""What `run` searches when nothing is said: a workload that every machine can finish."""

from __future__ import annotations

from collections.abc import Mapping

from variants.axes import AXES, Choice
from variants.device import DeviceKind

_SCORE_MODS = ("none", "alibi", "softcap:50", "sliding_window:256")
_DECISIONS: dict[str, tuple[Choice, ...]] = {
    name: axis.known for name, axis in AXES.items() if axis.of_variant and axis.known is not None
}

DEFAULT_AXES: Mapping[DeviceKind, Mapping[str, tuple[Choice, ...]]] = {
    "cuda": {
        "phase": ("decode",),
        "batch": (1, 4, 16),
        "seq_len": (512, 2048, 8192),
        "new_tokens": (8,),
        "q_heads": (16,),
        "head_dim": (64,),
        "layers": (1,),
        "score_mod": _SCORE_MODS,
        **_DECISIONS,
    },
    # Small enough for 200 trials in about five minutes on two cores, compilation included. Without
    # fp16, whose matrix products many CPUs emulate at a hundredth of the speed.
    "cpu": {
        "phase": ("decode",),
        "batch": (1, 4),
        "seq_len": (256, 1024),
        "new_tokens": (4,),
        "q_heads": (4,),
        "head_dim": (64,),
        "layers": (1,),
        "score_mod": _SCORE_MODS,
        **_DECISIONS,
        "precision": ("fp32", "bf16"),
    },
}
