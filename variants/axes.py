"""All axes of a configuration: what a user may pin, list or leave to the defaults.

A choice is an entry of its axis's registry, in a file of its own. An axis that a backend alone
has is declared beside that backend, in `Backend.axes`, and joins the others here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from variants.axis import Axis, Choice, Chosen, VariantAxis
from variants.backends import BACKENDS
from variants.caches import CACHES
from variants.executions import EXECUTIONS
from variants.gqa import GQA
from variants.kv_dtypes import KV_DTYPES
from variants.precisions import PRECISIONS
from variants.quantizations import QUANTIZATIONS
from variants.registry import Registry
from variants.score_mods import SCORE_MODS, parse_score_mod
from variants.workload import Phase, Workload

__all__ = ["AXES", "VARIANT_AXES", "WORKLOAD_AXES", "Axis", "Choice", "Chosen", "VariantAxis"]

WORKLOAD_AXES: Mapping[str, Axis] = Registry(
    "axis",
    [
        Axis(
            name="phase",
            summary="what the layer does",
            names=tuple(phase.value for phase in Phase),
        ),
        Axis(name="batch", summary="sequences", numeric=True),
        Axis(
            name="seq_len",
            summary="tokens of context: the prompt, or the filled cache",
            numeric=True,
        ),
        Axis(
            name="new_tokens", summary="consecutive decode steps that are measured", numeric=True
        ),
        Axis(name="q_heads", summary="query heads", numeric=True),
        Axis(
            name="kv_heads",
            summary="key/value heads (as many as query heads if not given)",
            numeric=True,
        ),
        Axis(name="head_dim", summary="elements of a head", numeric=True),
        Axis(
            name="hidden_size",
            summary="elements of a token (q_heads · head_dim if not given)",
            numeric=True,
        ),
        Axis(name="layers", summary="layers of the model", numeric=True),
        Axis(
            name="score_mod",
            summary="what the model does to its scores: name, name:parameter, or several by +",
            canonical=lambda name: parse_score_mod(name).canonical,
            registry=SCORE_MODS,
        ),
    ],
)


def _has_cache(workload: Workload, chosen: Chosen) -> bool:
    cache = chosen.get("cache")
    return workload.decodes and cache is not None and CACHES[str(cache)].reuses


_SHARED: tuple[VariantAxis[Any], ...] = (
    VariantAxis(
        name="backend",
        summary="how softmax(QKᵀ)V is computed",
        registry=BACKENDS,
        choosable=lambda backend: backend.searched,
        optional=lambda backend: bool(backend.packages),
        there=lambda backend, device: backend.is_there(device),
        says_default=True,
    ),
    VariantAxis(
        name="precision",
        summary="of weights and activations",
        registry=PRECISIONS,
        # Many CPUs have no fp16 matrix products and emulate them, many times slower.
        searched_on={"cpu": ("fp32", "bf16")},
        says_default=True,
    ),
    VariantAxis(
        name="quantization",
        summary="of the projections",
        registry=QUANTIZATIONS,
        searched=("none",),  # 8-bit numbers cost accuracy: they are asked for by name
    ),
    VariantAxis(
        name="cache",
        summary="where past keys and values are kept (decode)",
        registry=CACHES,
        when=lambda workload, chosen: workload.decodes,
        says_default=True,
    ),
    VariantAxis(
        name="kv_dtype",
        summary="in which numbers a cache keeps them (decode)",
        registry=KV_DTYPES,
        when=_has_cache,
        reads=("cache",),
        searched=("same",),
        label="kv-{}",
    ),
    VariantAxis(
        name="gqa",
        summary="how grouped heads reach a backend",
        registry=GQA,
        when=lambda workload, chosen: workload.grouped,
        searched=("native",),
    ),
    VariantAxis(
        name="execution",
        summary="how operations are launched",
        registry=EXECUTIONS,
        # Compiling the layer takes minutes: it is asked for by name.
        searched_on={"cuda": ("eager", "cuda_graph"), "cpu": ("eager",)},
    ),
)


def _of_backends() -> Iterator[VariantAxis[Any]]:
    """Yield the axes that some backends alone have, each with the names of these backends."""
    declared = {axis.name: axis for backend in BACKENDS.values() for axis in backend.axes}
    for axis in declared.values():
        having = (name for name, backend in BACKENDS.items() if axis in backend.axes)
        yield replace(axis, backends=tuple(having))


VARIANT_AXES: Mapping[str, VariantAxis[Any]] = Registry("axis", [*_SHARED, *_of_backends()])
AXES: Mapping[str, Axis] = Registry("axis", [*WORKLOAD_AXES.values(), *VARIANT_AXES.values()])
