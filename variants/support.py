"""What a device can run, and in words why it cannot run the rest.

Reads declarations and device facts only, so it answers for a GPU that this machine lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

from variants.axes import VARIANT_AXES
from variants.axis import Rule, VariantAxis
from variants.backends import BACKENDS, Support, Takes
from variants.backends.kernel_package import missing
from variants.caches import CACHES
from variants.configuration import Configuration
from variants.device import Device
from variants.executions import EXECUTIONS
from variants.gqa import grouped_heads
from variants.precisions import PRECISIONS
from variants.quantizations import QUANTIZATIONS
from variants.variant import Variant
from variants.workload import Workload


def unsupported_reasons(configuration: Configuration, device: Device) -> tuple[str, ...]:
    """Say why `device` cannot run `configuration`; empty means that it should run.

    Whether it fits in memory is not asked here: that is measured.
    """
    return tuple(reason for rule in RULES for reason in rule(configuration, device))


def reasons_by_variant(workload: Workload, device: Device) -> Callable[[Variant], tuple[str, ...]]:
    """Return `unsupported_reasons` for many valid variants of a workload.

    What a rule says is remembered by what it reads of a variant: each is asked a few dozen times,
    not once for each of thousands of combinations.
    """
    said: dict[tuple[Rule, object], tuple[str, ...]] = {}
    rules = [
        (rule, attrgetter(*reads.axes), frozenset(reads.backends()))
        for rule, reads in RULES.items()
    ]

    def reasons(variant: Variant) -> tuple[str, ...]:
        found: tuple[str, ...] = ()
        for rule, read, backends in rules:
            if variant.backend not in backends:
                continue
            key = rule, read(variant)
            if key not in said:
                # The variant is valid: validating it again would take most of the time.
                of = Configuration.model_construct(workload=workload, variant=variant)
                said[key] = tuple(rule(of, device))
            found += said[key]
        return found

    return reasons


def support_kind(workload: Workload) -> tuple[object, ...]:
    """Return what of a workload decides: where it is equal, each variant has the same reasons.

    Lengths and batches do not, but where a step may have fewer tokens than something needs.
    """
    most = max(entry.min_rows for entry in QUANTIZATIONS.values())
    tokens = (workload.batch, workload.batch * workload.seq_len)
    heads = (workload.q_heads, workload.kv_heads, workload.head_dim, workload.hidden_size)
    return (workload.phase, workload.score_mod, *heads, *(min(rows, most) for rows in tokens))


def _precision_reasons(configuration: Configuration, device: Device) -> Iterator[str]:
    precision = PRECISIONS[configuration.variant.precision]
    if device.kind not in precision.devices:
        yield f"precision {precision.name} does not exist on {device.kind}"
    elif _below(device, precision.min_capability):
        yield _needs_capability(f"precision {precision.name}", precision.min_capability, device)


def _backend_reasons(configuration: Configuration, device: Device) -> Iterator[str]:
    workload, variant = configuration.workload, configuration.variant
    name = variant.backend
    support = BACKENDS[name].support.get(device.kind)
    if support is None:
        yield f"backend {name} does not exist on {device.kind}"
        return
    exists = device.kind in PRECISIONS[variant.precision].devices
    if variant.precision not in support.precisions and exists:
        yield f"backend {name} takes {_or(support.precisions)}, not {variant.precision}"
    if _below(device, support.min_capability):
        yield _needs_capability(f"backend {name}", support.min_capability, device)
    if support.max_capability is not None and (device.capability or (0, 0)) > (
        support.max_capability
    ):
        yield (
            f"backend {name} takes compute capability up to {_dotted(support.max_capability)}, "
            f"this device has {_dotted(device.capability)}"
        )
    yield from _score_mod_reasons(name, support, configuration)
    if workload.grouped:
        yield from grouped_heads(variant.gqa).reasons(name, support)
    if workload.trains and not support.backward:
        yield f"backend {name} has no backward on {device.kind}"
    yield from _head_dim_reasons(name, support, configuration, device)
    if support.needs_triton and device.triton is None:
        yield f"backend {name} needs Triton, which is not installed"
    if support.needs_cpp_compiler and not device.cpp_compiler:
        yield f"backend {name} needs a C++ compiler on {device.kind}, and none was found"


def _score_mod_reasons(name: str, support: Support, configuration: Configuration) -> Iterator[str]:
    workload, variant = configuration.workload, configuration.variant
    scores = workload.scores
    if variant.cache is not None and CACHES[variant.cache].windowed:
        scores = scores.without_window()  # the cache has done that part
    scores = scores.without(support.computes)
    if support.takes < Takes.ANY and not scores.additive:
        yield f"backend {name} adds a bias at most, and {workload.score_mod} is not additive"
    elif support.takes < Takes.ADDITIVE and not scores.plain:
        yield f"backend {name} takes no bias, and {workload.score_mod} needs one"


def _head_dim_reasons(
    name: str, support: Support, configuration: Configuration, device: Device
) -> Iterator[str]:
    workload, variant = configuration.workload, configuration.variant
    multiple = (support.head_dim_multiple or {}).get(variant.precision, 1)
    if workload.head_dim % multiple:
        yield (
            f"backend {name} needs head_dim in multiples of {multiple} at {variant.precision}, "
            f"got {workload.head_dim}"
        )
    if workload.head_dim < support.min_head_dim:
        yield (
            f"backend {name} needs head_dim of at least {support.min_head_dim}, "
            f"got {workload.head_dim}"
        )
    limits = [limit for since, limit in support.max_head_dim if not _below(device, since)]
    limit = limits[-1] if limits else workload.head_dim
    if workload.head_dim > limit:
        yield f"backend {name} takes head_dim up to {limit} here, got {workload.head_dim}"


def _quantization_reasons(configuration: Configuration, device: Device) -> Iterator[str]:
    workload, variant = configuration.workload, configuration.variant
    entry = QUANTIZATIONS[variant.quantization]
    if entry.quantize is None:
        return
    name = f"quantization {entry.name}"
    if device.kind not in entry.devices:
        yield f"{name} does not exist on {device.kind}"
        return
    if entry.needs_torchao and device.torchao is None:
        yield f"{name} needs torchao, which is not installed"
    elif entry.name in device.failed_quantizations:
        yield f"{name} fails here: {device.failed_quantizations[entry.name]}"
    if variant.precision not in entry.precisions:
        yield f"{name} takes {_or(entry.precisions)}, not {variant.precision}"
    if _below(device, entry.min_capability):
        yield _needs_capability(name, entry.min_capability, device)
    if workload.trains:
        yield "quantized projections have no gradients to train with"
    execution = EXECUTIONS[variant.execution]
    if execution.compiles and not entry.compilable:
        yield f"{name} cannot be compiled"
    if execution.captures and not entry.capturable:
        yield f"{name} cannot be captured into a CUDA graph"


def _quantized_shape_reasons(configuration: Configuration, device: Device) -> Iterator[str]:
    workload = configuration.workload
    entry = QUANTIZATIONS[configuration.variant.quantization]
    if device.kind != "cuda":
        return
    name = f"quantization {entry.name}"
    cache = configuration.variant.cache
    reuses = cache is not None and CACHES[cache].reuses
    rows = workload.batch * (1 if reuses else workload.seq_len)
    if rows < entry.min_rows:
        yield f"{name} needs {entry.min_rows} tokens in a step, got {rows}"
    widths = {
        "hidden_size": workload.hidden_size,
        "q_heads · head_dim": workload.q_heads * workload.head_dim,
        "kv_heads · head_dim": workload.kv_heads * workload.head_dim,
    }
    for what, width in widths.items():
        if width % entry.features_multiple:
            yield f"{name} needs {what} in multiples of {entry.features_multiple}, got {width}"
    hidden, *heads = widths.values()
    weights = {(out, hidden) for out in heads} | {(hidden, heads[0])}
    if entry.refused_weight in weights:
        yield f"{name} takes no weight of {' × '.join(map(str, entry.refused_weight))}"


def _cache_reasons(configuration: Configuration, device: Device) -> Iterator[str]:
    workload, variant = configuration.workload, configuration.variant
    if variant.cache is None:
        return
    kind = CACHES[variant.cache]
    if kind.windowed:
        if workload.scores.window is None:
            yield f"cache {kind.name} needs a sliding_window, got {workload.score_mod}"
        elif workload.scores.without_window().masks or workload.scores.relative:
            yield (
                f"cache {kind.name} keeps keys in no order, and {workload.score_mod} looks at "
                f"positions"
            )
    support = BACKENDS[variant.backend].support.get(device.kind)
    if kind.paged and support is not None and not support.paged:
        yield f"backend {variant.backend} takes no block table, which cache {kind.name} needs"


def _execution_reasons(configuration: Configuration, device: Device) -> Iterator[str]:
    workload, variant = configuration.workload, configuration.variant
    execution = EXECUTIONS[variant.execution]
    name = f"execution {execution.name}"
    if device.kind not in execution.devices:
        yield f"{name} does not exist on {device.kind}"
        return
    if execution.compiles and device.kind == "cuda" and device.triton is None:
        yield f"{name} needs Triton, which is not installed"
    if execution.compiles and device.kind == "cpu" and not device.cpp_compiler:
        yield f"{name} needs a C++ compiler on cpu, and none was found"
    support = BACKENDS[variant.backend].support.get(device.kind)
    if execution.compiles and support is not None and not support.inlined:
        yield f"backend {variant.backend} cannot be compiled with its layer on {device.kind}"
    if not execution.captures:
        return
    if workload.trains:
        yield f"{name} captures no backward here"
    if variant.cache is not None and not CACHES[variant.cache].fixed:
        fixed = _or(tuple(kind.name for kind in CACHES.values() if kind.fixed))
        yield f"{name} holds lengths on the device and needs cache {fixed}, not {variant.cache}"
    if workload.decodes and support is not None and not support.captures_decoding:
        yield (
            f"backend {variant.backend} takes no mask, which hides what a captured step has not "
            f"reached yet"
        )


def _package_reasons(configuration: Configuration, device: Device) -> Iterator[str]:
    backend = BACKENDS[configuration.variant.backend]
    if device.kind not in backend.support:
        return
    obstacles = list(missing(backend.packages, device.kernel_packages))
    yield from (f"backend {backend.name} needs {obstacle}" for obstacle in obstacles)


def _own_reasons(configuration: Configuration, device: Device) -> Iterator[str]:
    backend = BACKENDS[configuration.variant.backend]
    if (
        backend.reasons is not None
        and device.kind in backend.support
        and not list(missing(backend.packages, device.kernel_packages))
    ):
        yield from backend.reasons(configuration, device)


def _below(device: Device, needed: tuple[int, int] | None) -> bool:
    return device.kind == "cuda" and needed is not None and (device.capability or (0, 0)) < needed


def _needs_capability(name: str, needed: tuple[int, int] | None, device: Device) -> str:
    return (
        f"{name} needs compute capability {_dotted(needed)}, "
        f"this device has {_dotted(device.capability)}"
    )


def _dotted(capability: tuple[int, int] | None) -> str:
    return "none" if capability is None else ".".join(map(str, capability))


def _or(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


class Reads(NamedTuple):
    """What a rule looks at: where that is equal, it gives the same reasons."""

    axes: tuple[str, ...]  # of the variant
    backends: Callable[[], Iterable[str]]  # it has nothing to say of others


def _every_backend() -> Iterable[str]:
    return BACKENDS


def _backends_with_reasons() -> Iterable[str]:
    return [name for name, backend in BACKENDS.items() if backend.reasons is not None]


def _backends_of(axis: VariantAxis[Any]) -> Iterable[str]:
    return axis.backends or BACKENDS


# Those of an axis's declaration come last.
RULES: Mapping[Rule, Reads] = {
    _precision_reasons: Reads(("precision",), _every_backend),
    _backend_reasons: Reads(("backend", "precision", "cache", "gqa"), _every_backend),
    _quantization_reasons: Reads(("quantization", "precision", "execution"), _every_backend),
    _quantized_shape_reasons: Reads(("quantization", "cache"), _every_backend),
    _cache_reasons: Reads(("cache", "backend"), _every_backend),
    _execution_reasons: Reads(("execution", "cache", "backend"), _every_backend),
    _package_reasons: Reads(("backend",), _every_backend),
    _own_reasons: Reads(
        ("backend", "precision", "cache", "kv_dtype", "gqa", "execution"), _backends_with_reasons
    ),
    **{
        rule: Reads(axes, partial(_backends_of, axis))
        for axis in VARIANT_AXES.values()
        for rule, axes in axis.rules.items()
    },
}
