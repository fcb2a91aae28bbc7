"""The packages that hold FlashAttention-3, and what each has compiled into it.

What a build takes is set when it is compiled; each package's is written in its `*_config.py`, and
what is said here of them was read there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from variants.backends.kernel_package import KernelPackage

if TYPE_CHECKING:
    from variants.score_mods import ScoreModChain


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


def build_obstacles(needs: Needs, installed: Mapping[str, str]) -> Iterator[str]:
    """Say what stands against each build, unless one can do it."""
    if build_for(needs, installed) is not None:
        return
    obstacles = [
        f"{build.package.distribution}, which has no {lacking}"
        if (lacking := build.obstacle(needs)) is not None
        else build.package.obstacle(installed)
        for build in BUILDS
    ]
    yield f"backend fa3 cannot use {', nor '.join(str(obstacle) for obstacle in obstacles)}"
