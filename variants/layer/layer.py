"""A decoder attention layer that computes a configuration: what is measured and what is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from variants.backends import BACKENDS, Attention
from variants.backends.backend import Prepared
from variants.caches import CACHES, CacheShape, KVCache, StepPosition
from variants.configuration import Configuration
from variants.device import DeviceKind
from variants.executions import EXECUTIONS
from variants.gqa import grouped_heads
from variants.kv_dtypes import KV_DTYPES, KeyValue
from variants.layer.filled_cache import CachePlan, FilledCache
from variants.layer.graph import Graph
from variants.layer.inputs import Weights, weight_shapes
from variants.precisions import PRECISIONS
from variants.quantizations import projection_bytes, quantize_projections
from variants.score_mods import parse_score_mod

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


class AttentionLayer(nn.Module):
    """Causal self-attention with q/k/v/o projections, computed as its configuration says.

    Prefill: `layer(hidden)` takes `(batch, seq_len, hidden_size)` and leaves the keys and values
    in `kept`. Train: the same with gradients. Decode with a cache: `fill` the context, then
    `layer(hidden)` takes the hidden states of the next token, `(batch, 1, hidden_size)`. Decode
    without a cache: `layer(hidden)` takes those of all tokens so far. The output has the input's
    shape.
    """

    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module
    o_proj: nn.Module

    def __init__(
        self, configuration: Configuration, weights: Weights, *, capacity: int | None = None
    ) -> None:
        """Build the layer on the device of `weights`, rounding them to the variant's precision.

        Args:
            configuration: What to compute and how; its support is not checked here.
            weights: Unrounded projections.
            capacity: Tokens that the cache can hold; the workload's own if not given.

        Raises:
            ValueError: A weight has another shape than the workload says.
            QuantizationError: The quantization left a projection as it was.
        """
        super().__init__()
        self.configuration = configuration
        workload, variant = configuration.workload, configuration.variant
        self.precision = PRECISIONS[variant.precision]
        self.execution = EXECUTIONS[variant.execution]
        self.cache_kind = None if variant.cache is None else CACHES[variant.cache]
        self.device = weights.q.device
        self.capacity = workload.capacity if capacity is None else capacity
        self.kept: tuple[Tensor, Tensor] | None = None
        self._add_projections(weights)
        quantize_projections(self, PROJECTIONS, variant.quantization)
        self._grouped = grouped_heads(variant.gqa)
        backend = BACKENDS[variant.backend]
        self._whole = backend.whole_buffer or self.execution.captures
        self._plan = self._cache_plan()
        self._filled: FilledCache | None = None
        self._backend = self._prepare_backend()
        step = self._step if self._plan is None else self._cached_step
        self._compute: Callable[..., Tensor] = step
        self._slots: Tensor | None = None  # numbers on the device, for a compiled step
        if self.execution.compiles:
            # Two more in front: at an offset of 0 or 1 a slice would get a graph of its own.
            self._slots = torch.arange(-2, self.capacity, device=self.device)
            self._compute = torch.compile(
                step,
                fullgraph=True,
                dynamic=self.grows,
                options=self._inductor_options(),
            )
        self._graph: Graph | None = None

    def _add_projections(self, weights: Weights) -> None:
        for name, (out_features, in_features) in weight_shapes(
            self.configuration.workload
        ).items():
            weight: Tensor = getattr(weights, name)
            if weight.shape != (out_features, in_features):
                raise ValueError(
                    f"weight {name} must have shape {(out_features, in_features)}, "
                    f"got {tuple(weight.shape)}"
                )
            linear = nn.Linear(in_features, out_features, bias=False, device="meta")
            rounded = weight.to(self.precision.dtype, copy=True)
            linear.weight = nn.Parameter(rounded, self.configuration.workload.trains)
            self.add_module(f"{name}_proj", linear)

    @property
    def reuses_cache(self) -> bool:
        """Whether a step reads a cache instead of recomputing the context."""
        return self._plan is not None

    @property
    def cache(self) -> KVCache | None:
        """The cache, once it is filled; None where there is none."""
        return None if self._filled is None else self._filled.cache

    @property
    def weight_bytes(self) -> int:
        """Bytes of the projections, quantized or not."""
        return sum(projection_bytes(self.get_submodule(name)) for name in PROJECTIONS)

    @property
    def bias_bytes(self) -> int:
        """Bytes of the biases or masks that the backend keeps."""
        return self._backend.nbytes

    @property
    def cache_bytes(self) -> int:
        """Bytes of the keys and values that the layer keeps now, their scales included."""
        if self._filled is not None:
            return self._filled.nbytes
        return sum(tensor.nbytes for tensor in self.kept or ())

    def places(self) -> tuple[StepPosition, ...]:
        """Return where each of the workload's steps stands."""
        workload = self.configuration.workload
        if not workload.decodes:
            return (StepPosition(position=0, q_len=workload.seq_len, kv_len=workload.seq_len),)
        lengths = range(workload.seq_len, workload.capacity)
        if self._plan is not None:
            return tuple(map(self._plan.place_of, lengths))
        return tuple(StepPosition(position=0, q_len=n + 1, kv_len=n + 1) for n in lengths)

    @property
    def grows(self) -> bool:
        """Whether the tensors of one step are larger than those of another."""
        if not self.configuration.workload.decodes:
            return False
        if self._plan is None:
            return True
        lengths = (self.configuration.workload.seq_len, self.capacity - 1)
        first, last = (self._plan.place_of(length).kv_len for length in lengths)
        return first != last

    def _cache_plan(self) -> CachePlan | None:
        workload, kind = self.configuration.workload, self.cache_kind
        if kind is None or kind.cache is None:
            return None
        shape = CacheShape(
            batch=workload.batch,
            kv_heads=workload.kv_heads,
            capacity=self.capacity,
            window=workload.scores.window if kind.windowed else None,
            whole=self._whole,
        )
        return CachePlan(kind.cache, shape)

    def _backend_reads_stored(self) -> bool:
        """Tell whether the backend takes keys and values as the cache stores them."""
        variant = self.configuration.variant
        support = BACKENDS[variant.backend].support[_kind(self.device)]
        on_cuda = self.device.type == "cuda"
        capability = torch.cuda.get_device_capability(self.device) if on_cuda else None
        return support.reads(variant.kv_dtype, variant.precision, capability)

    def _inductor_options(self) -> dict[str, Any]:
        kind = _kind(self.device)
        return dict(BACKENDS[self.configuration.variant.backend].inductor_options.get(kind, {}))

    def _prepare_backend(self) -> Prepared:
        workload, variant = self.configuration.workload, self.configuration.variant
        windowed = self.cache_kind is not None and self.cache_kind.windowed
        # What a ring keeps is the window: nothing is left to hide.
        scores = workload.scores.without_window() if windowed else workload.scores
        scores = scores if scores.parts else parse_score_mod("none")
        places = self.places()
        captured_decode = self.execution.captures and workload.decodes
        attention = Attention(
            mod=scores.bind(workload.q_heads, self.device),
            plain=scores.plain,
            batch=workload.batch,
            q_heads=workload.q_heads,
            kv_heads=self._grouped.kv_heads(workload),
            head_dim=workload.head_dim,
            scale=workload.head_dim**-0.5,
            places=places,
            capacity=self.capacity,
            kv_capacity=max(place.kv_len for place in places)
            if self._whole and self.reuses_cache
            else self.capacity,
            grows=self.grows,
            paged=self.cache_kind is not None and self.cache_kind.paged,
            trains=workload.trains,
            inlined=self.execution.compiles,
            dtype=self.precision.dtype,
            device=self.device,
            variant=variant,
        )
        with self.precision.applied():
            prepared = BACKENDS[variant.backend].prepare(attention)
            if captured_decode:
                position = torch.tensor([places[0].position], device=self.device)
                prepared.mask_at(position)  # builds its tables before anything is captured
        return prepared

    @torch.inference_mode()
    def fill(self, context: Callable[[int], Tensor]) -> KVCache:
        """Start a new cache with the keys and values of the context, and return it.

        Args:
            context: Hidden states of one sequence of the batch, `(seq_len, hidden_size)`; called
                once for each sequence in turn, so that they never exist all at once.

        Raises:
            ValueError: The configuration has no cache.
        """
        if self._plan is None:
            raise ValueError(f"there is no cache to fill in {self.configuration.key}")
        workload, variant = self.configuration.workload, self.configuration.variant
        self._filled = self._graph = None
        codec = KV_DTYPES[variant.kv_dtype or "same"].codec(
            workload.batch,
            workload.kv_heads,
            workload.head_dim,
            self.precision.dtype,
            self.device,
        )
        cache = self._plan.cache(codec.planes(), self._plan.shape, workload.seq_len, self.device)
        with self.precision.applied():
            for sequence in range(workload.batch):
                hidden = context(sequence).to(self.precision.dtype)[None]
                key, value = self._heads(self.k_proj(hidden)), self._heads(self.v_proj(hidden))
                codec.calibrate(sequence, key, value)
                cache.fill(sequence, codec.encode(key, value, sequence))
        self._filled = FilledCache(cache, codec, self._backend_reads_stored())
        return cache

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute one step; see the class for what `hidden` holds. Returns its shape.

        Raises:
            CacheOverflowError: The cache is full.
            RuntimeError: The cache was not filled.
        """
        with (
            self.precision.applied(),
            torch.inference_mode(not self.configuration.workload.trains),
        ):
            if self.execution.captures:
                return self._replay(hidden)
            if self._plan is None:
                length = hidden.shape[1]
                place = StepPosition(position=0, q_len=length, kv_len=length)
                return self._compute(hidden, self._backend.mask(place))
            cache = self._context().cache
            place = cache.place()
            mask = self._backend.mask(place)
            if self._slots is not None:
                # The mask knows the position; here it would be one more constant to compile for.
                place = place._replace(
                    position=0, slot=self._slots[place.slot + 2 : place.slot + 3]
                )
            out = self._compute(hidden, place, mask, cache.planes)
            cache.length += 1
            return out

    def _context(self) -> FilledCache:
        if self._filled is None:
            raise RuntimeError("the cache is empty: call fill() with the context first")
        return self._filled

    # Steps are computed from tensors and host numbers alone: a compiler takes them whole.

    def _step(self, hidden: Tensor, mask: Any) -> Tensor:
        """Compute one step of prefill or training, or of decode without a cache."""
        query, key, value = (
            self._heads(project(hidden)) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.cache_kind is None and not self.configuration.workload.trains:
            self.kept = (key, value)
        return self._project_out(self._attend(query, KeyValue(key, value), mask))

    def _cached_step(
        self, hidden: Tensor, place: StepPosition, mask: Any, planes: list[Tensor]
    ) -> Tensor:
        """Compute one decode step that reads and writes the cache's `planes`."""
        filled = self._context()
        query, key, value = (
            self._heads(project(hidden)) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        new = filled.codec.encode(key, value)
        # From here on only the cache holds them, so that it can let go of what it replaces.
        del key, value
        kv = filled.readable(filled.cache.write(planes, new, place))
        return self._project_out(self._attend(query, kv, mask))

    def _fixed_step(self, hidden: Tensor, position: Tensor) -> Tensor:
        """Compute one decode step at a position that only the device knows, `(1,)` int64."""
        filled = self._context()
        cache = filled.cache
        query, key, value = (
            self._heads(project(hidden)) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        new = filled.codec.encode(key, value)
        place = cache.place_of(cache.shape, 0)._replace(slot=position)
        kv = filled.readable(cache.write(cache.planes, new, place))
        out = self._project_out(self._attend(query, kv, self._backend.mask_at(position)))
        position += 1
        return out

    def _attend(self, query: Tensor, kv: KeyValue, mask: Any) -> Tensor:
        """Return the output of the heads, `(batch, q_heads, q_len, head_dim)`."""
        codec = None if self._filled is None else self._filled.codec
        if codec is not None and codec.key_scale is not None:
            query = query * self._by_query_head(codec.key_scale)
        out = self._backend.attend(query, self._grouped.given(kv, self._groups), mask)
        if codec is not None and codec.value_scale is not None:
            out = out * self._by_query_head(codec.value_scale)
        return out

    @property
    def _groups(self) -> int:
        workload = self.configuration.workload
        return workload.q_heads // workload.kv_heads

    def _by_query_head(self, scale: Tensor) -> Tensor:
        return scale.repeat_interleave(self._groups, dim=1)[:, :, None, None]

    def _heads(self, projected: Tensor) -> Tensor:
        """Return `(batch, heads, length, head_dim)` from `(batch, length, heads · head_dim)`."""
        head_dim = self.configuration.workload.head_dim
        shape = (*projected.shape[:-1], -1, head_dim)
        return projected.view(shape).transpose(1, 2)

    def _project_out(self, out: Tensor) -> Tensor:
        projected: Tensor = self.o_proj(out.transpose(1, 2).flatten(2))
        return projected

    def _replay(self, hidden: Tensor) -> Tensor:
        """Replay the captured step, capturing it first where there is none."""
        place = self._context().cache.place() if self.reuses_cache else None
        if self._graph is None:
            self._graph = self._capture(hidden)
        start = None if place is None else place.position
        out = self._graph.replay(hidden, start)
        if self._filled is not None:
            self._filled.cache.length += 1
        return out

    def _capture(self, hidden: Tensor) -> Graph:
        if self.reuses_cache:
            return Graph(self._fixed_step, hidden, position=self._context().cache.length)
        (place,) = self.places()
        mask = self._backend.mask(place)
        return Graph(lambda given, position: self._step(given, mask), hidden)

    def move_graph(self, nbytes: int) -> bool:
        """Capture a captured step of decode elsewhere; see `Graph.move`. False if there is none.

        Raises:
            torch.OutOfMemoryError: There is no room for it. What was captured before is kept.
        """
        if self._graph is None:
            return False
        with self.precision.applied(), torch.inference_mode():
            self._graph.move(self._fixed_step, self._context().cache.length, nbytes)
        return True

    def release_graph(self) -> None:
        """Forget the captured step and its memory; the next one is captured anew."""
        self._graph = None


def _kind(device: torch.device) -> DeviceKind:
    return "cuda" if device.type == "cuda" else "cpu"
