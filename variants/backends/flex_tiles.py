"""The tiles axis of flex: which kernel Inductor makes of FlexAttention, and in which tiles.

PyTorch has three kernels for it. One is for steps of many rows (`BACKEND` TRITON), one for few
rows, which splits the keys among multiprocessors (TRITON_DECODE), and one is FlashAttention-4 with
the score_mod built in (FLASH), a package of its own. `default` leaves everything to Inductor: it
takes the second below 128 rows, else the first, and has one set of tiles for each head_dim.

The names of the others are PyTorch's kernel options. `m128n64w8s3` has blocks of 128 rows
(BLOCK_M) and 64 keys (BLOCK_N), 8 warps (num_warps) and 3 stages of its pipeline (num_stages).
With `tma` behind it, rows and keys are loaded by the Tensor Memory Accelerator (USE_TMA).
`n64w2s3split8` is a tile of the kernel for few rows, which needs no m: it holds all rows in one
block; here the keys are split into 8 parts (SPLIT_KV), else into what fills the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from variants.axis import VariantAxis
from variants.backends.kernel_package import KernelPackage
from variants.caches import CACHES
from variants.precisions import PRECISIONS
from variants.registry import Registry

if TYPE_CHECKING:
    import torch

    from variants.backends.backend import Attention
    from variants.device import Device, DeviceKind
    from variants.kv_dtypes import KeyValue

# Bytes of shared memory that a block may have, by the major number of the compute capability.
# Where it is not known, a kernel that does not fit is refused once it is compiled.
SHARED_MEMORY = {9: 232448}
TMA_BYTES = 16  # rows that the Tensor Memory Accelerator moves begin at multiples of it


class TilesError(NotImplementedError):
    """A kernel was asked for what these tiles are not made for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """One choice of the tiles axis."""

    name: str
    summary: str
    # One row at a time looks at a cache, a whole prompt is computed, or whatever comes.
    steps: Literal["decode", "prompt", "any"]
    options: Mapping[str, Any] | None = None  # kernel_options of `flex_attention`
    splits: bool = False  # it runs the kernel for few rows
    # Keys and values that lie in shared memory at once, and rows of the query; 0: Inductor's own.
    keys_held: int = 0
    rows_held: int = 0
    tma: bool = False
    min_capability: tuple[int, int] = (0, 0)
    bits: tuple[int, ...] = (16, 32)  # of the numbers that it takes
    head_dim_multiple: int = 1
    max_head_dim: int = 2**31
    backward: bool = True
    lacks: tuple[str, ...] = ()  # score_mods that it does not compute
    packages: tuple[KernelPackage, ...] = ()  # of which all must be installed
    kernel: str | None = None  # what the profiler sees where it is none of Inductor's


class TilesTask(NamedTuple):
    """What tiles are asked to do."""

    kind: DeviceKind
    capability: tuple[int, int] | None
    bits: int  # of a number
    head_dim: int
    groups: int  # query heads that share a key/value head
    trains: bool
    decodes: bool  # tokens are generated one by one
    recomputes: bool  # from all tokens before, without a cache

    @classmethod
    def of(cls, attention: Attention) -> TilesTask:
        """Return what a backend is told, as a task."""
        import torch

        device = attention.device
        on_cuda = device.type == "cuda"
        return cls(
            kind="cuda" if on_cuda else "cpu",
            capability=torch.cuda.get_device_capability(device) if on_cuda else None,
            bits=8 * attention.dtype.itemsize,
            head_dim=attention.head_dim,
            groups=attention.q_heads // attention.kv_heads,
            trains=attention.trains,
            decodes=attention.decodes,
            recomputes=attention.decodes and any(p.q_len > 1 for p in attention.places),
        )


def refusals(tiles: Tiles, task: TilesTask) -> Iterator[str]:
    """Say why tiles cannot do a task. PyTorch would pass over some of it in silence."""
    if tiles.options is None:
        return
    if task.kind != "cuda":
        yield f"tiles {tiles.name} does not exist on {task.kind}"
        return
    yield from _step_refusals(tiles, task)
    yield from _shape_refusals(tiles, task)


def _step_refusals(tiles: Tiles, task: TilesTask) -> Iterator[str]:
    name = f"tiles {tiles.name}"
    if tiles.steps == "prompt" and task.decodes:
        yield f"{name} is for prefill and train, not for decode"
    if tiles.steps == "decode" and (task.recomputes or not task.decodes):
        yield f"{name} is for decode with a cache, whose steps have one row"
    if task.trains and not tiles.backward:
        yield f"{name} has no backward here"
    if (task.capability or (0, 0)) < tiles.min_capability:
        needed, has = (
            ".".join(map(str, each or ("none",)))
            for each in (tiles.min_capability, task.capability)
        )
        yield f"{name} needs compute capability {needed}, this device has {has}"


def _shape_refusals(tiles: Tiles, task: TilesTask) -> Iterator[str]:
    name = f"tiles {tiles.name}"
    if tiles.splits and task.groups & (task.groups - 1):
        yield (
            f"{name} takes 1, 2, 4, 8 or another power of two query heads to a key/value head, "
            f"got {task.groups}"
        )
    if task.bits not in tiles.bits:
        yield f"{name} takes numbers of {tiles.bits[0]} bits, got {task.bits}"
    multiple = max(tiles.head_dim_multiple, 8 * TMA_BYTES // task.bits if tiles.tma else 1)
    if task.head_dim % multiple:
        yield f"{name} needs head_dim in multiples of {multiple}, got {task.head_dim}"
    if task.head_dim > tiles.max_head_dim:
        yield f"{name} takes head_dim up to {tiles.max_head_dim}, got {task.head_dim}"


def _shared_memory_refusals(tiles: Tiles, task: TilesTask) -> Iterator[str]:
    width = 1 << (task.head_dim - 1).bit_length()  # as Triton pads it
    needed = (tiles.rows_held + 2 * tiles.keys_held) * width * task.bits // 8
    there = SHARED_MEMORY.get((task.capability or (0, 0))[0], needed)
    if needed > there:
        yield (
            f"tiles {tiles.name} needs {needed} bytes of shared memory at head_dim "
            f"{task.head_dim} and {task.bits} bits, this device has {there}"
        )


def tiles_of(attention: Attention) -> Tiles:
    """Return the tiles that were chosen.

    Raises:
        TilesError: They cannot do what is asked for.
    """
    tiles = TILES.of(attention.variant)
    if tiles is None:
        return DEFAULT
    reasons = list(refusals(tiles, TilesTask.of(attention)))
    if tiles.tma and not reasons:
        from torch.utils._triton import has_triton_tma_device

        if not has_triton_tma_device():
            reasons = [f"tiles {tiles.name} needs a Triton with descriptors of tensors"]
    if reasons:
        raise TilesError(f"not supported: {'; '.join(reasons)}")
    return tiles


def inductor_options(tiles: Tiles) -> dict[str, Any]:
    """Return what torch.compile is told, so that tiles are run as they are named or not at all.

    Where a tile's stages do not fit into shared memory, Inductor (torch 2.13) would run it
    without them.
    """
    from torch._inductor import config

    told = "dynamic_disable_pipelining"
    known = tiles.options is not None and hasattr(config.triton, told)
    return {f"triton.{told}": False} if known else {}


def check_strides(tiles: Tiles, query: torch.Tensor, kv: KeyValue) -> None:
    """See to it that the Tensor Memory Accelerator can be used: Inductor would do without.

    Raises:
        TilesError: It cannot.
    """
    import torch

    for tensor in (query, kv.key, kv.value):
        *outer, inner = tensor.stride()
        aligned = inner == 1 and not any(s * tensor.itemsize % TMA_BYTES for s in outer)
        if aligned and not torch.compiler.is_compiling():
            aligned = tensor.data_ptr() % TMA_BYTES == 0
        if not aligned:
            raise TilesError(
                f"not supported: tiles {tiles.name} needs rows that begin at multiples of "
                f"{TMA_BYTES} bytes, got strides of {tuple(tensor.stride())} numbers of "
                f"{tensor.itemsize} bytes"
            )


def _tile_reasons(configuration: Any, device: Device) -> Iterator[str]:
    workload, variant = configuration.workload, configuration.variant
    tiles = TILES.of(variant)
    if tiles is None:
        return
    task = TilesTask(
        kind=device.kind,
        capability=device.capability,
        bits=PRECISIONS[variant.precision].bits,
        head_dim=workload.head_dim,
        groups=workload.q_heads // configuration.kv_heads_given,
        trains=workload.trains,
        decodes=workload.decodes,
        recomputes=variant.cache is not None and not CACHES[variant.cache].reuses,
    )
    yield from refusals(tiles, task)
    if device.kind != "cuda":
        return
    if variant.kv_dtype != "fp8":  # which lies there as it is stored
        yield from _shared_memory_refusals(tiles, task)
    for part in workload.scores.parts:
        if part.entry.name in tiles.lacks:
            yield f"tiles {tiles.name} cannot compute score_mod {part.entry.name}"
    for package in tiles.packages:
        obstacle = package.obstacle(device.kernel_packages)
        if obstacle is not None:
            yield f"tiles {tiles.name} needs {obstacle}"


def _stages(number: int) -> str:
    return "1 stage" if number == 1 else f"{number} stages"


def _one_row(keys: int, warps: int, stages: int, split: int | None = None) -> Tiles:
    """Return a tile of the kernel for few rows; a step that cannot have it ends in an error."""
    options = {
        "BACKEND": "TRITON_DECODE",
        "fwd_BLOCK_N": keys,
        "fwd_num_warps": warps,
        "fwd_num_stages": stages,
    }
    parts = "" if split is None else f", the keys split into {split} parts"
    return Tiles(
        name=f"n{keys}w{warps}s{stages}" + ("" if split is None else f"split{split}"),
        summary=f"decode: blocks of {keys} keys, {warps} warps, {_stages(stages)}{parts}",
        steps="decode",
        options=options if split is None else options | {"SPLIT_KV": split},
        splits=True,
        keys_held=keys * max(1, stages - 1),  # what a stage computes is in registers
        rows_held=16,
    )


def _many_rows(rows: int, keys: int, warps: int, stages: int, *, tma: bool = False) -> Tiles:
    """Return a tile of the kernel for many rows. The backward pass keeps its own.

    Of numbers of 16 bits: products of float32 that are not rounded to TF32 use no tensor cores,
    and their code, which has each of a tile's products, takes minutes to compile.
    """
    options = {
        "BACKEND": "TRITON",
        "fwd_BLOCK_M": rows,
        "fwd_BLOCK_N": keys,
        "fwd_num_warps": warps,
        "fwd_num_stages": stages,
    }
    return Tiles(
        name=f"m{rows}n{keys}w{warps}s{stages}" + ("tma" if tma else ""),
        summary=f"prefill: blocks of {rows} rows and {keys} keys, {warps} warps, {_stages(stages)}"
        + (", loaded by the Tensor Memory Accelerator" if tma else ""),
        steps="prompt",
        options=options | {"fwd_USE_TMA": True} if tma else options,
        tma=tma,
        min_capability=(9, 0) if tma else (0, 0),
        bits=(16,),
        keys_held=keys * stages,
        rows_held=rows,
    )


# The versions that were run.
FLASH_ATTENTION_4 = (
    KernelPackage(distribution="flash-attn-4", module="flash_attn.cute", since="4.0.0"),
    KernelPackage(distribution="nvidia-cutlass-dsl", module="cutlass", since="4.8"),
)
DEFAULT = Tiles(name="default", summary="as Inductor chooses", steps="any")
FLASH_TILES = Tiles(
    name="flash",
    summary="prefill: FlashAttention-4 with the score_mod built in (packages flash-attn-4 and "
    "nvidia-cutlass-dsl)",
    steps="prompt",
    options={"BACKEND": "FLASH"},
    min_capability=(9, 0),
    bits=(16,),
    head_dim_multiple=8,
    # Above it, its blocks of keys are not the 128 of a BlockMask.
    max_head_dim=128,
    backward=False,
    # Inductor's code for it has no division of whole numbers (torch 2.13).
    lacks=("document",),
    packages=FLASH_ATTENTION_4,
    kernel=r"FlashAttentionForward",
)

TILES = VariantAxis(
    name="tiles",
    summary="which kernel FlexAttention becomes, and its blocks",
    registry=Registry(
        "tiles",
        [
            DEFAULT,
            _one_row(64, 2, 3),
            _one_row(64, 4, 3),
            _one_row(128, 2, 2),
            _one_row(128, 4, 2),
            _one_row(128, 4, 3),
            _one_row(128, 2, 1),
            _one_row(32, 2, 3),
            _one_row(32, 4, 3),
            _one_row(64, 2, 3, split=2),
            _one_row(64, 2, 3, split=8),
            _one_row(64, 2, 3, split=32),
            Tiles(
                name="triton",
                summary="decode: the kernel for many rows, which does not split the keys",
                steps="decode",
                options={"BACKEND": "TRITON"},
            ),
            _many_rows(64, 64, 4, 2),
            _many_rows(64, 64, 4, 3),
            _many_rows(64, 64, 4, 3, tma=True),
            _many_rows(128, 64, 4, 3),
            _many_rows(128, 128, 8, 2),
            _many_rows(128, 128, 8, 2, tma=True),
            _many_rows(128, 128, 8, 3, tma=True),
            Tiles(
                name="tma",
                summary="prefill: Inductor's own blocks, loaded by the Tensor Memory Accelerator",
                steps="prompt",
                options={"BACKEND": "TRITON", "fwd_USE_TMA": True},
                tma=True,
                min_capability=(9, 0),
            ),
            FLASH_TILES,
        ],
    ),
    # The best of each kind of step where they were measured; the rest is asked for by name.
    searched_on={
        "cuda": ("default", "n64w2s3", "m64n64w4s3", "m128n128w8s2tma", "flash"),
        "cpu": ("default",),
    },
    label="tiles-{}",
    kernel=lambda tiles: tiles.kernel,
    packages=FLASH_ATTENTION_4,
    optional=lambda tiles: bool(tiles.packages),
    there=lambda tiles, device: (
        not any(package.obstacle(device.kernel_packages) for package in tiles.packages)
    ),
    rules={_tile_reasons: ("tiles", "backend", "precision", "cache", "kv_dtype", "gqa")},
)
