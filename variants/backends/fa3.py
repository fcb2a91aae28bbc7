"""FlashAttention-3, from packages that hold builds of it for Hopper GPUs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from variants.backends.backend import Attention, Backend, Prepared, Support, Takes
from variants.backends.fa3_builds import BUILDS, Needs, build_for, build_obstacles, computed
from variants.backends.fp8_query import rounded_query
from variants.backends.kernel_package import (
    KernelPackageError,
    installed_versions,
)
from variants.backends.key_counts import KeyCounts
from variants.backends.operator import define_operator
from variants.caches import CACHES, PAGE, StepPosition

if TYPE_CHECKING:
    import torch

    from variants.device import Device
    from variants.kv_dtypes import KeyValue, Scales
    from variants.workload import Workload

FP8_MULTIPLE = 16  # of head_dim: bytes that a row of keys is read in


def _reasons(configuration: Any, device: Device) -> Iterator[str]:
    workload: Workload = configuration.workload
    variant = configuration.variant
    support = FA3.support[device.kind]
    cache = None if variant.cache is None else CACHES[variant.cache]
    scores = workload.scores
    if cache is not None and cache.windowed:
        scores = scores.without_window()
    if variant.precision not in support.precisions or not scores.without(support.computes).plain:
        return  # said by the declarations
    paged = cache is not None and cache.paged
    needs = Needs(variant.precision, computed(scores), paged, workload.head_dim)
    yield from build_obstacles(needs, device.kernel_packages)
    stored = support.reads(variant.kv_dtype, variant.precision, device.capability)
    if stored and workload.head_dim % FP8_MULTIPLE:
        yield (
            f"backend fa3 reads a float8 cache at head_dim in multiples of {FP8_MULTIPLE}, "
            f"got {workload.head_dim}"
        )


class Fa3Mask(NamedTuple):
    """Beside causality from the last key on: where keys end, and in which pages they are."""

    lengths: torch.Tensor | None  # int32 (batch,); None: every key is valid
    table: torch.Tensor | None  # int32 (batch, pages)


class Fa3Scores(NamedTuple):
    """What a build is told of the scores."""

    scale: float
    window: int  # keys that a row sees before its own; -1 for all
    softcap: float  # 0 for none


class Fa3Attention(Prepared):
    """The forward pass of FlashAttention-3, its rows the last of the valid keys.

    It takes `(batch, tokens, heads, head_dim)` of any strides, so that nothing is copied.
    """

    def __init__(self, attention: Attention) -> None:
        """Load the build that the calls need.

        Raises:
            KernelPackageError: It cannot be, or none that is installed can do it.
        """
        import torch

        scores = attention.scores
        names = {torch.bfloat16: "bf16", torch.float16: "fp16"}
        precision = names.get(attention.dtype, str(attention.dtype))
        needs = Needs(precision, computed(scores), attention.paged, attention.head_dim)
        installed = installed_versions(build.package for build in BUILDS)
        build = build_for(needs, installed)
        if build is None:
            raise KernelPackageError("; ".join(build_obstacles(needs, installed)))
        build.package.load()
        self._attention, self._build = attention, build
        self._forward = _forward_of(build.namespace)
        self._operator = _operator() if attention.inlined else None
        self._counts = KeyCounts(attention)
        window, softcap = scores.parameter("sliding_window"), scores.parameter("softcap")
        self._scores = Fa3Scores(
            scale=attention.scale,
            window=-1 if window is None else window - 1,  # ours counts a row's own key, too
            softcap=float(softcap or 0),
        )

    @property
    def nbytes(self) -> int:
        return self._counts.nbytes

    def mask(self, place: StepPosition) -> Fa3Mask:
        whole = place.at is None and place.kv_len == place.position + place.q_len
        whole = whole and place.table is None
        return Fa3Mask(None if whole else self._counts.of(place), place.table)

    def mask_at(self, position: torch.Tensor) -> Fa3Mask:
        return Fa3Mask(self._counts.at(position), None)

    def attend(self, query: torch.Tensor, kv: KeyValue, mask: Fa3Mask) -> torch.Tensor:
        return self._call(query, kv, mask, None, None)

    def attend_scaled(
        self, query: torch.Tensor, kv: KeyValue, mask: Fa3Mask, scales: Scales | None
    ) -> torch.Tensor:
        if scales is None or kv.key.dtype.itemsize > 1:
            return super().attend_scaled(query, kv, mask, scales)
        return self._call(query, kv, mask, scales.key_float, scales.value_float)

    def _call(
        self,
        query: torch.Tensor,
        kv: KeyValue,
        mask: Fa3Mask,
        key_scale: torch.Tensor | None,
        value_scale: torch.Tensor | None,
    ) -> torch.Tensor:
        import torch

        scales = (key_scale, value_scale)
        if self._operator is not None and torch.compiler.is_compiling():
            name = self._build.namespace
            return self._operator(query, *kv, *mask, *scales, *self._scores, name)
        return _attend(self._forward, query, *kv, *mask, *scales, self._scores)


def _attend(
    forward: Callable[..., Any],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: torch.Tensor | None,
    table: torch.Tensor | None,
    key_scale: torch.Tensor | None,
    value_scale: torch.Tensor | None,
    scores: Fa3Scores,
) -> torch.Tensor:
    """Call a build's operator. Its causality is aligned at the last valid key, bottom-right.

    Where keys have scales they are float8, and the query is rounded to it.
    """
    kv_heads = key.shape[1]
    ours = query
    query_scale = None
    if key_scale is None:
        query = _by_token(query)
    else:
        query, query_scale = rounded_query(query, kv_heads)
    out: torch.Tensor = forward(
        query,
        _by_token(key) if table is None else _in_pages(key),
        _by_token(value) if table is None else _in_pages(value),
        seqused_k=lengths,
        page_table=table,
        q_descale=query_scale,
        k_descale=_of_heads(key_scale, kv_heads),
        v_descale=_of_heads(value_scale, kv_heads),
        softmax_scale=scores.scale,
        is_causal=True,
        window_size_left=scores.window,
        window_size_right=-1 if scores.window < 0 else 0,
        softcap=scores.softcap,
        num_splits=0,  # as many as it finds best
    )[0]
    return out.to(ours.dtype).transpose(1, 2)  # of float8 numbers it comes in bfloat16


def _by_token(heads: torch.Tensor) -> torch.Tensor:
    """Return `(batch, tokens, heads, width)`, the width contiguous and nothing else."""
    tokens = heads.transpose(1, 2)
    return tokens if tokens.stride(3) == 1 else tokens.contiguous()


def _in_pages(pool: torch.Tensor) -> torch.Tensor:
    """Return a pool, `(1, kv_heads, tokens, width)`, as `(pages, PAGE, kv_heads, width)`."""
    _, kv_heads, tokens, width = pool.shape
    return pool.view(kv_heads, tokens // PAGE, PAGE, width).permute(1, 2, 0, 3)


def _of_heads(scale: torch.Tensor | None, kv_heads: int) -> torch.Tensor | None:
    """Return the factor of each head that is given: they may have been repeated."""
    if scale is None or scale.shape[1] == kv_heads:
        return scale
    return scale.repeat_interleave(kv_heads // scale.shape[1], dim=1)


@functools.cache
def _forward_of(namespace: str) -> Callable[..., Any]:
    import torch

    operators: Any = getattr(torch.ops, namespace)
    return operators.fwd.default  # type: ignore[no-any-return]


@functools.cache
def _operator() -> Callable[..., torch.Tensor]:
    """Return the same as an operator that a compiler takes as it is."""
    attend: Callable[..., torch.Tensor] = _attend

    def compute(*given: Any) -> torch.Tensor:
        *tensors, scale, window, softcap, namespace = given
        return attend(_forward_of(namespace), *tensors, Fa3Scores(scale, window, softcap))

    def fake(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> torch.Tensor:
        batch, heads, q_len, _width = query.shape
        return query.new_empty((batch, q_len, heads, value.shape[3])).transpose(1, 2)

    return define_operator(
        "fa3(Tensor query, Tensor key, Tensor value, Tensor? lengths, Tensor? table, "
        "Tensor? key_scale, Tensor? value_scale, float scale, int window, float softcap, "
        "str namespace) -> Tensor",
        compute,
        fake,
    )


FA3 = Backend(
    name="fa3",
    summary="FlashAttention-3 (packages tokenspeed-fa3, fa3-fwd), on Hopper GPUs",
    support={
        "cuda": Support(
            precisions=("bf16", "fp16"),
            takes=Takes.PLAIN,
            computes=("softcap", "sliding_window"),
            grouped_heads=True,
            backward=False,  # both packages are built without it
            paged=True,
            counts_keys=True,
            reads_stored={"fp8": ("bf16",)},
            reads_stored_capability=(9, 0),
            min_capability=(9, 0),
            max_capability=(9, 0),
            head_dim_multiple={"bf16": 8, "fp16": 8},
            max_head_dim=(((0, 0), 256),),
        ),
    },
    prepare=Fa3Attention,
    proof={"cuda": r"FlashAttnFwdSm90"},
    skips_hidden=True,
    packages=tuple(build.package for build in BUILDS),
    reasons=_reasons,
)
