"""cuDNN's attention as a graph of our own, lengths on the device: one plan serves them all.

PyTorch's `cudnn` plans for the lengths of its tensors, and a decode step has a new one each time.
Here a step is given the whole buffer of a static cache, and beside it how much of it is valid.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from variants.backends.backend import Attention, Backend, Prepared, Support, Takes
from variants.backends.kernel_package import KernelPackage
from variants.backends.key_counts import KeyCounts
from variants.backends.operator import define_operator
from variants.caches import CACHES, StepPosition

if TYPE_CHECKING:
    import torch

    from variants.device import Device
    from variants.kv_dtypes import KeyValue
    from variants.workload import Workload

PACKAGE = KernelPackage(distribution="nvidia-cudnn-frontend", module="cudnn", since="1.24")
PLANS_KEPT = 256  # of a process; each holds a kernel's launch, and no memory of the device


class _Layout(NamedTuple):
    """Shape and strides of a tensor."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> _Layout:
        return cls(tuple(tensor.shape), tensor.stride())


class _PlanKey(NamedTuple):
    """What a plan holds for."""

    thread: int  # a handle launches on one stream at a time
    device: int
    dtype: torch.dtype
    query: _Layout
    key: _Layout
    value: _Layout
    scale: float


class _Plan:
    """A graph of cuDNN that is built for one layout of query, key and value."""

    def __init__(self, key: _PlanKey) -> None:
        """Build the graph.

        Raises:
            RuntimeError: cuDNN has no kernel for it.
        """
        import torch

        cudnn = PACKAGE.load()
        kinds = {torch.bfloat16: cudnn.data_type.BFLOAT16, torch.float16: cudnn.data_type.HALF}
        self._handle = _handle(key.thread, key.device)
        graph = cudnn.pygraph(
            io_data_type=kinds[key.dtype],
            intermediate_data_type=cudnn.data_type.FLOAT,
            compute_data_type=cudnn.data_type.FLOAT,
            handle=self._handle,
        )
        named = (("q", key.query), ("k", key.key), ("v", key.value))
        given = [
            graph.tensor(name=name, dim=list(layout.shape), stride=list(layout.strides),
                         data_type=kinds[key.dtype])
            for name, layout in named
        ]  # fmt: skip
        batch, heads, rows, _ = key.query.shape
        counts = [
            graph.tensor(name=name, dim=[batch, 1, 1, 1], stride=[1, 1, 1, 1],
                         data_type=cudnn.data_type.INT32)
            for name in ("rows", "keys")
        ]  # fmt: skip
        out, _ = graph.sdpa(
            name="sdpa",
            q=given[0],
            k=given[1],
            v=given[2],
            is_inference=True,
            attn_scale=key.scale,
            use_padding_mask=True,
            seq_len_q=counts[0],
            seq_len_kv=counts[1],
        )
        width = key.value.shape[3]
        strides = [heads * rows * width, width, heads * width, 1]
        out.set_output(True).set_dim([batch, heads, rows, width]).set_stride(strides)
        try:
            graph.build([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        except cudnn.cudnnGraphNotSupportedError as error:
            raise RuntimeError(f"a graph of cuDNN for {key} is not supported: {error}") from error
        self._graph, self._set_stream = graph, cudnn.set_stream
        self._places = [tensor.get_uid() for tensor in (*given, *counts, out)]
        self._workspace_bytes = max(1, graph.get_workspace_size())

    def run(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        rows: torch.Tensor,
        lengths: torch.Tensor,
    ) -> torch.Tensor:
        """Launch it on the current stream; `rows` and `lengths` are int32, `(batch,)`."""
        import torch

        batch, heads, q_len, _ = query.shape
        out = query.new_empty((batch, q_len, heads, value.shape[3]))
        workspace = torch.empty(self._workspace_bytes, dtype=torch.uint8, device=query.device)
        stream = torch.cuda.current_stream(query.device).cuda_stream
        self._set_stream(handle=self._handle, stream=stream)
        tensors = (query, key, value, rows, lengths, out)
        places = dict(zip(self._places, tensors, strict=True))
        self._graph.execute(places, workspace, handle=self._handle)
        return out


@functools.lru_cache(maxsize=PLANS_KEPT)
def _plan(key: _PlanKey) -> _Plan:
    return _Plan(key)


@functools.cache
def _handle(thread: int, device: int) -> Any:
    return PACKAGE.load().create_handle()


@functools.cache
def _operator() -> Callable[..., torch.Tensor]:
    """Return the attention as an operator: what a profiler sees of it, and a compiler leaves."""

    def compute(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        rows: torch.Tensor,
        lengths: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        layouts = (_Layout.of(query), _Layout.of(key), _Layout.of(value))
        device = query.device.index or 0
        found = _plan(_PlanKey(threading.get_ident(), device, query.dtype, *layouts, scale))
        return found.run(query, key, value, rows, lengths)

    def fake(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> torch.Tensor:
        batch, heads, q_len, _width = query.shape
        return query.new_empty((batch, q_len, heads, value.shape[3]))

    return define_operator(
        "cudnn_graph_sdpa(Tensor query, Tensor key, Tensor value, Tensor rows, Tensor lengths, "
        "float scale) -> Tensor",
        compute,
        fake,
    )


class CudnnGraphAttention(Prepared):
    """A decode step over a buffer of which `lengths` keys are valid, the row's own the last."""

    def __init__(self, attention: Attention) -> None:
        """Load the package; plans are built by the first calls.

        Raises:
            KernelPackageError: It cannot be loaded.
        """
        import torch

        PACKAGE.load()
        self._scale = attention.scale
        self._counts = KeyCounts(attention)
        self._rows = torch.ones(attention.batch, dtype=torch.int32, device=attention.device)
        self._operator = _operator()

    @property
    def nbytes(self) -> int:
        return self._counts.nbytes + self._rows.nbytes

    def mask(self, place: StepPosition) -> torch.Tensor:
        if place.q_len != 1:
            raise ValueError(f"cudnn_graph takes one row a step, got {place.q_len}")
        return self._counts.of(place)

    def mask_at(self, position: torch.Tensor) -> torch.Tensor:
        return self._counts.at(position)

    def attend(self, query: torch.Tensor, kv: KeyValue, mask: torch.Tensor) -> torch.Tensor:
        out = self._operator(query, kv.key, kv.value, self._rows, mask, self._scale)
        return out.transpose(1, 2)


def _reasons(configuration: Any, device: Device) -> Iterator[str]:
    workload: Workload = configuration.workload
    cache: str | None = configuration.variant.cache
    if not workload.decodes:
        yield f"backend cudnn_graph computes decode steps, not {workload.phase.value}"
    elif cache is not None and not CACHES[cache].fixed:
        fixed = " or ".join(kind.name for kind in CACHES.values() if kind.fixed)
        yield f"backend cudnn_graph plans for a buffer and needs cache {fixed}, not {cache}"


CUDNN_GRAPH = Backend(
    name="cudnn_graph",
    summary="cuDNN's attention with one plan for all lengths (package nvidia-cudnn-frontend)",
    support={
        "cuda": Support(
            precisions=("bf16", "fp16"),
            takes=Takes.PLAIN,
            grouped_heads=True,
            backward=False,
            counts_keys=True,
            min_capability=(8, 0),
            head_dim_multiple={"bf16": 8, "fp16": 8},
            # The largest that was tried on Hopper, far beyond what `cudnn` takes.
            max_head_dim=(((0, 0), 128), ((9, 0), 1024)),
        ),
    },
    prepare=CudnnGraphAttention,
    proof={"cuda": r"^goldilocks::cudnn_graph_sdpa$"},
    whole_buffer=True,
    packages=(PACKAGE,),
    reasons=_reasons,
)
