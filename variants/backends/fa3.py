"""FlashAttention-3, from the packages that hold builds of it for Hopper GPUs.

What a build takes is set when it is compiled; each package's is written in its `*_config.py`, and
what is said here of them was read there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from variants.backends.backend import Attention, Backend, Prepared, Support, Takes
from variants.backends.fp8_query import rounded_query
from variants.backends.kernel_package import (
    KernelPackage,
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
    from variants.score_mods import ScoreModChain
    from variants.workload import Workload

FP8_MULTIPLE = 16  # of head_dim: bytes that a row of keys is read in


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """FlashAttention-3 as one package has compiled it."""

    package: KernelPackage
    namespace: str  # of its operators
    precisions: tuple[str, ...]
    computes: tuple[str, ...]  # score_mods
    head_dims: tuple[int, ...]  # of its kernels; others run in the next larger one
    paged: bool

    def obstacle(self, needs: Needs) -> str | None:
        """Say what it lacks; None where it has all that is needed."""
        if needs.precision not in self.precisions:
            return needs.precision
        lacking = [name for name in needs.computes if name not in self.computes]
        if lacking:
            return lacking[0]
        return "a block table" if needs.paged and not self.paged else None

    def padded(self, head_dim: int) -> int:
        """Return the head_dim that its kernel computes."""
        return min((d for d in self.head_dims if d >= head_dim), default=max(self.head_dims))


class Needs(NamedTuple):
    """What a build must have."""

    precision: str
    computes: tuple[str, ...]
    paged: bool
    head_dim: int


BUILDS = (
    Build(
        package=KernelPackage(
            distribution="tokenspeed-fa3", module="flash_attn_3._C", since="3.0"
        ),
        namespace="flash_attn_3",
        precisions=("bf16", "fp16"),
        computes=("sliding_window",),
        head_dims=(64, 128, 192, 256),
        paged=True,
    ),
    Build(
        package=KernelPackage(distribution="fa3-fwd", module="fa3_fwd._C", since="0.0.3"),
        namespace="fa3_fwd",
        precisions=("bf16",),
        computes=("softcap",),
        head_dims=(64, 96, 128, 192, 256),
        paged=False,
    ),
)


def build_for(needs: Needs, installed: Mapping[str, str]) -> Build | None:
    """Return the build that pads head_dim least, the first of several; None if none can.

    `installed` are versions by distribution.
    """
    able = [b for b in BUILDS if b.obstacle(needs) is None and b.package.usable(installed)]
    return min(able, key=lambda build: build.padded(needs.head_dim), default=None)


def computed(scores: ScoreModChain) -> tuple[str, ...]:
    """Return the names of the score_mods that a kernel has to compute."""
    return tuple(part.entry.name for part in scores.parts if part.entry.name != "none")


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
    yield from _no_build(needs, device.kernel_packages)
    stored = support.reads(variant.kv_dtype, variant.precision, device.capability)
    if stored and workload.head_dim % FP8_MULTIPLE:
        yield (
            f"backend fa3 reads a float8 cache at head_dim in multiples of {FP8_MULTIPLE}, "
            f"got {workload.head_dim}"
        )


def _no_build(needs: Needs, installed: Mapping[str, str]) -> Iterator[str]:
    """Say what stands against each build, unless one can."""
    if build_for(needs, installed) is not None:
        return
    obstacles = [
        f"{build.package.distribution}, which has no {lacking}"
        if (lacking := build.obstacle(needs)) is not None
        else build.package.obstacle(installed)
        for build in BUILDS
    ]
    yield f"backend fa3 cannot use {', nor '.join(str(obstacle) for obstacle in obstacles)}"


class Fa3Mask(NamedTuple):
    """Beside causality from the last key on: where keys end, and in which pages they are."""

    lengths: torch.Tensor | None  # int32 (batch,); None: every key is valid
    table: torch.Tensor | None  # int32 (batch, pages)


class _Descales(NamedTuple):
    """Factors that were taken out of float8 numbers, `(batch, kv_heads)` each."""

    query: torch.Tensor | None = None
    key: torch.Tensor | None = None
    value: torch.Tensor | None = None


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
            raise KernelPackageError("; ".join(_no_build(needs, installed)))
        build.package.load()
        self._attention, self._build = attention, build
        self._forward = _forward_of(build.namespace)
        self._operator = _operator() if attention.inlined else None
        self._counts = KeyCounts(attention)
        window = scores.parameter("sliding_window")
        # Theirs counts the keys before a row's own.
        self._window = -1 if window is None else window - 1
        self._softcap = float(scores.parameter("softcap") or 0)

    @property
    def nbytes(self) -> int:
        return self._counts.nbytes

    def mask(self, place: StepPosition) -> Fa3Mask:
        whole = place.at is None and place.kv_len == place.position + place.q_len
        return Fa3Mask(None if whole else self._counts.of(place), place.table)

    def mask_at(self, position: torch.Tensor) -> Fa3Mask:
        return Fa3Mask(self._counts.at(position), None)

    def attend(self, query: torch.Tensor, kv: KeyValue, mask: Fa3Mask) -> torch.Tensor:
        return self._call(query.transpose(1, 2), kv, mask, _Descales())

    def attend_scaled(
        self, query: torch.Tensor, kv: KeyValue, mask: Fa3Mask, scales: Scales | None
    ) -> torch.Tensor:
        import torch

        if scales is None or kv.key.dtype is not torch.float8_e4m3fn:
            return super().attend_scaled(query, kv, mask, scales)
        heads = self._attention.kv_heads
        rounded = rounded_query(query, heads)
        key, value = (
            scale.repeat_interleave(heads // scale.shape[1], dim=1)
            if scale.shape[1] < heads  # keys and values were repeated
            else scale
            for scale in (scales.key_float, scales.value_float)
        )
        out = self._call(rounded.query, kv, mask, _Descales(rounded.scale, key, value))
        return out.to(query.dtype)  # a float8 product comes in bfloat16

    def _call(
        self,
        query: torch.Tensor,
        kv: KeyValue,
        mask: Fa3Mask,
        descales: _Descales,
    ) -> torch.Tensor:
        import torch

        key, value = (self._in_pages(part) if mask.table is not None else part.transpose(1, 2)
                      for part in kv)  # fmt: skip
        numbers = (self._attention.scale, self._window, self._softcap)
        if self._operator is not None and torch.compiler.is_compiling():
            name = self._build.namespace
            out = self._operator(query, key, value, *mask, *descales, *numbers, name)
        else:
            out = _attend(self._forward, query, key, value, *mask, *descales, *numbers)
        return out.transpose(1, 2)

    def _in_pages(self, pool: torch.Tensor) -> torch.Tensor:
        """Return a pool, `(1, kv_heads, tokens, width)`, as `(pages, PAGE, kv_heads, width)`."""
        kv_heads, tokens, width = pool.shape[1:]
        return pool[0].view(kv_heads, tokens // PAGE, PAGE, width).permute(1, 2, 0, 3)


def _attend(
    forward: Callable[..., Any],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: torch.Tensor | None,
    table: torch.Tensor | None,
    query_scale: torch.Tensor | None,
    key_scale: torch.Tensor | None,
    value_scale: torch.Tensor | None,
    scale: float,
    window: int,
    softcap: float,
) -> torch.Tensor:
    """Call a build's operator. Its causality is aligned at the last valid key, bottom-right."""
    if query.stride(3) != 1:
        query = query.contiguous()
    out: torch.Tensor = forward(
        query,
        key if key.stride(3) == 1 else key.contiguous(),
        value if value.stride(3) == 1 else value.contiguous(),
        seqused_k=lengths,
        page_table=table,
        q_descale=query_scale,
        k_descale=key_scale,
        v_descale=value_scale,
        softmax_scale=scale,
        is_causal=True,
        window_size_left=window,
        window_size_right=-1 if window < 0 else 0,
        softcap=softcap,
        num_splits=0,  # as many as it finds best
    )[0]
    return out


@functools.cache
def _forward_of(namespace: str) -> Callable[..., Any]:
    import torch

    operators: Any = getattr(torch.ops, namespace)
    return operators.fwd.default  # type: ignore[no-any-return]


@functools.cache
def _operator() -> Callable[..., torch.Tensor]:
    """Return the same as an operator that a compiler takes as it is."""
    import torch

    def compute(*given: Any) -> torch.Tensor:
        return _attend(_forward_of(given[-1]), *given[:-1])

    def fake(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> torch.Tensor:
        whole = query.dtype if query.dtype.itemsize > 1 else torch.bfloat16
        return query.new_empty((*query.shape[:3], value.shape[3]), dtype=whole)

    return define_operator(
        "fa3(Tensor query, Tensor key, Tensor value, Tensor? lengths, Tensor? table, "
        "Tensor? query_scale, Tensor? key_scale, Tensor? value_scale, float scale, int window, "
        "float softcap, str namespace) -> Tensor",
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
