"""What a device can run, and in words why it cannot run the rest.

Reads declarations and device facts only, so it answers for a GPU that this machine lacks.
"""

from __future__ import annotations

from variants.backends import BACKENDS, Support, Takes
from variants.configuration import Configuration
from variants.device import Device
from variants.precisions import PRECISIONS


def unsupported_reasons(configuration: Configuration, device: Device) -> tuple[str, ...]:
    """Say why `device` cannot run `configuration`; empty means that it should run.

    Whether it fits in memory is not asked here: that is measured.
    """
    variant = configuration.variant
    precision = PRECISIONS[variant.precision]
    reasons = []
    if device.kind not in precision.devices:
        reasons.append(f"precision {precision.name} does not exist on {device.kind}")
    elif _below(device, precision.min_capability):
        reasons.append(
            f"precision {precision.name} needs compute capability "
            f"{_dotted(precision.min_capability)}, this device has {_dotted(device.capability)}"
        )
    backend = BACKENDS[variant.backend]
    support = backend.support.get(device.kind)
    if support is None:
        reasons.append(f"backend {backend.name} does not exist on {device.kind}")
    else:
        reasons += _backend_reasons(backend.name, support, configuration, device)
    return tuple(reasons)


def _backend_reasons(
    name: str, support: Support, configuration: Configuration, device: Device
) -> list[str]:
    workload, variant = configuration.workload, configuration.variant
    reasons = []
    if variant.precision not in support.precisions and (
        device.kind in PRECISIONS[variant.precision].devices
    ):
        reasons.append(f"backend {name} takes {_or(support.precisions)}, not {variant.precision}")
    if _below(device, support.min_capability):
        reasons.append(
            f"backend {name} needs compute capability {_dotted(support.min_capability)}, "
            f"this device has {_dotted(device.capability)}"
        )
    mod = workload.score_mod_entry[0]
    if support.takes < Takes.ANY and not mod.additive:
        reasons.append(f"backend {name} adds a bias at most, and {mod.name} is not additive")
    elif support.takes < Takes.ADDITIVE and mod.name != "none":
        reasons.append(f"backend {name} takes no bias, and {mod.name} needs one")
    if workload.grouped and not support.grouped_heads:
        reasons.append(f"backend {name} needs kv_heads equal to q_heads")
    reasons += _head_dim_reasons(name, support, configuration, device)
    if support.needs_triton and device.triton is None:
        reasons.append(f"backend {name} needs Triton, which is not installed")
    if support.needs_cpp_compiler and not device.cpp_compiler:
        reasons.append(f"backend {name} needs a C++ compiler on {device.kind}, and none was found")
    return reasons


def _head_dim_reasons(
    name: str, support: Support, configuration: Configuration, device: Device
) -> list[str]:
    workload, variant = configuration.workload, configuration.variant
    reasons = []
    multiple = (support.head_dim_multiple or {}).get(variant.precision, 1)
    if workload.head_dim % multiple:
        reasons.append(
            f"backend {name} needs head_dim in multiples of {multiple} at {variant.precision}, "
            f"got {workload.head_dim}"
        )
    if workload.head_dim < support.min_head_dim:
        reasons.append(
            f"backend {name} needs head_dim of at least {support.min_head_dim}, "
            f"got {workload.head_dim}"
        )
    limits = [limit for since, limit in support.max_head_dim if not _below(device, since)]
    if limits and workload.head_dim > limits[-1]:
        reasons.append(
            f"backend {name} takes head_dim up to {limits[-1]} here, got {workload.head_dim}"
        )
    return reasons


def _below(device: Device, needed: tuple[int, int] | None) -> bool:
    return device.kind == "cuda" and needed is not None and (device.capability or (0, 0)) < needed


def _dotted(capability: tuple[int, int] | None) -> str:
    return "none" if capability is None else ".".join(map(str, capability))


def _or(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
