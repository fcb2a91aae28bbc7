"""What `run` searches when nothing is said: a workload that every machine can finish."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from objectives.schema.limits import Limits
from variants.axes import VARIANT_AXES, Choice
from variants.device import Device, DeviceKind
from variants.kv_dtypes import KV_DTYPES
from variants.quantizations import QUANTIZATIONS

_SCORE_MODS = ("none", "alibi", "softcap:50", "sliding_window:256")
ZONE_TOLERANCE = 0.1  # how far behind a front point the zone of `sensitivity` goes
# Both factors of a float8 product have three bits of mantissa. Above the `relative_error` that
# `python -m search run --quantization fp8_dynamic` measures.
EIGHT_BIT_MAX_ERROR = 0.1


def default_max_error(choices: Mapping[str, Sequence[Choice]]) -> float:
    """Return the relative error that is accepted where the user names none.

    bfloat16 stays below 1e-2; 8-bit numbers do not, and are searched only where they are named.
    """
    eight_bit = any(KV_DTYPES[str(name)].bits for name in choices.get("kv_dtype", ())) or any(
        QUANTIZATIONS[str(name)].weight_bits for name in choices.get("quantization", ())
    )
    return EIGHT_BIT_MAX_ERROR if eight_bit else Limits().max_error


_WORKLOADS: Mapping[DeviceKind, Mapping[str, tuple[Choice, ...]]] = {
    "cuda": {
        "phase": ("decode",),
        "batch": (1, 4, 16),
        "seq_len": (512, 2048, 8192),
        "new_tokens": (8,),
        "q_heads": (16,),
        "head_dim": (64,),
        "layers": (1,),
        "score_mod": _SCORE_MODS,
    },
    # Small enough for 200 trials in minutes on two cores, compilation included.
    "cpu": {
        "phase": ("decode",),
        "batch": (1, 4),
        "seq_len": (256, 1024),
        "new_tokens": (4,),
        "q_heads": (4,),
        "head_dim": (64,),
        "layers": (1,),
        "score_mod": _SCORE_MODS,
    },
}


class _DefaultAxes(Mapping[DeviceKind, Mapping[str, tuple[Choice, ...]]]):
    """By kind of device. Made when it is read: a plugin's choices are searched like ours."""

    def __getitem__(self, kind: DeviceKind) -> Mapping[str, tuple[Choice, ...]]:
        decisions = {n: axis.searched_unless_named(kind) for n, axis in VARIANT_AXES.items()}
        return {**decisions, **_WORKLOADS[kind]}

    def __iter__(self) -> Iterator[DeviceKind]:
        return iter(_WORKLOADS)

    def __len__(self) -> int:
        return len(_WORKLOADS)


DEFAULT_AXES = _DefaultAxes()


def default_axes(device: Device) -> Mapping[str, tuple[Choice, ...]]:
    """Return what is searched on a device: beside `DEFAULT_AXES`, what is installed there."""
    decisions = {name: axis.searched_here(device) for name, axis in VARIANT_AXES.items()}
    return {**DEFAULT_AXES[device.kind], **decisions}
