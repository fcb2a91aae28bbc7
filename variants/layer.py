"""A decoder attention layer that computes a configuration: what is measured and what is loaded."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from variants.backends import BACKENDS, Attention
from variants.backends.backend import Prepared
from variants.caches import CACHES, KVCache
from variants.configuration import Configuration
from variants.inputs import Weights, weight_shapes
from variants.precisions import PRECISIONS


class AttentionLayer(nn.Module):
    """Causal self-attention with q/k/v/o projections, computed as its configuration says.

    Prefill: `layer(hidden)` takes `(batch, seq_len, hidden_size)` and leaves the keys and values
    in `kept`. Decode with a cache: `fill` the context, then `layer(hidden)` takes the hidden
    states of the next token, `(batch, 1, hidden_size)`. Decode without a cache: `layer(hidden)`
    takes those of all tokens so far. The output has the input's shape.
    """

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    o_proj: nn.Linear

    def __init__(
        self, configuration: Configuration, weights: Weights, *, capacity: int | None = None
    ) -> None:
        """Build the layer on the device of `weights`, rounding them to the variant's precision.

        Args:
            configuration: What to compute and how; its support is not checked here.
            weights: Unrounded projections.
            capacity: Tokens that the cache can hold; the workload's own if not given.
        """
        super().__init__()
        self.configuration = configuration
        workload, variant = configuration.workload, configuration.variant
        self.precision = PRECISIONS[variant.precision]
        self.cache_kind = CACHES[variant.cache] if variant.cache is not None else None
        self.device = weights.q.device
        self.capacity = workload.capacity if capacity is None else capacity
        self.cache: KVCache | None = None
        self.kept: tuple[Tensor, Tensor] | None = None
        for name, (out_features, in_features) in weight_shapes(workload).items():
            weight: Tensor = getattr(weights, name)
            if weight.shape != (out_features, in_features):
                raise ValueError(
                    f"weight {name} must have shape {(out_features, in_features)}, "
                    f"got {tuple(weight.shape)}"
                )
            linear = nn.Linear(in_features, out_features, bias=False, device="meta")
            linear.weight = nn.Parameter(weight.to(self.precision.dtype, copy=True), False)
            self.add_module(f"{name}_proj", linear)
        self._backend = self._prepare_backend()

    @property
    def reuses_cache(self) -> bool:
        """Whether a step reads a cache instead of recomputing the context."""
        return self.cache_kind is not None and self.cache_kind.cache is not None

    @property
    def weight_bytes(self) -> int:
        """Bytes of the projections."""
        return sum(parameter.nbytes for parameter in self.parameters())

    @property
    def bias_bytes(self) -> int:
        """Bytes of the biases or masks that the backend keeps."""
        return self._backend.nbytes

    @property
    def cache_bytes(self) -> int:
        """Bytes of the keys and values that the layer keeps now."""
        if self.cache is not None:
            return self.cache.nbytes
        return sum(tensor.nbytes for tensor in self.kept or ())

    def calls(self) -> tuple[tuple[int, int, int], ...]:
        """Return (position, q_len, kv_len) of the workload's steps."""
        workload = self.configuration.workload
        if not workload.decodes:
            return ((0, workload.seq_len, workload.seq_len),)
        lengths = range(workload.seq_len + 1, workload.capacity + 1)
        if self.reuses_cache:
            return tuple((length - 1, 1, length) for length in lengths)
        return tuple((0, length, length) for length in lengths)

    def _prepare_backend(self) -> Prepared:
        workload = self.configuration.workload
        entry, parameter = workload.score_mod_entry
        calls = self.calls()
        attention = Attention(
            mod=entry.bind(parameter, workload.q_heads, self.device),
            plain=entry.name == "none",
            q_heads=workload.q_heads,
            kv_heads=workload.kv_heads,
            head_dim=workload.head_dim,
            first_position=calls[0][0],
            capacity=self.capacity,
            calls=calls,
            grows=workload.decodes,
            dtype=self.precision.dtype,
            device=self.device,
        )
        with self.precision.applied():
            return BACKENDS[self.configuration.variant.backend].prepare(attention)

    @torch.inference_mode()
    def fill(self, context: Callable[[int], Tensor]) -> None:
        """Start a new cache with the keys and values of the context.

        Args:
            context: Hidden states of one sequence of the batch, `(seq_len, hidden_size)`; called
                once for each sequence in turn, so that they never exist all at once.

        Raises:
            ValueError: The configuration has no cache.
        """
        if self.cache_kind is None or self.cache_kind.cache is None:
            raise ValueError(f"there is no cache to fill in {self.configuration.key}")
        workload, kind = self.configuration.workload, self.cache_kind.cache
        self.cache = None
        tokens = kind.allocated_tokens(workload.seq_len, self.capacity)
        shape = (workload.batch, workload.kv_heads, tokens, workload.head_dim)
        key = torch.zeros(shape, dtype=self.precision.dtype, device=self.device)
        value = torch.zeros_like(key)
        with self.precision.applied():
            for sequence in range(workload.batch):
                hidden = context(sequence).to(self.precision.dtype)
                _, new_key, new_value = self._project(hidden[None], queries=False)
                key[sequence, :, : workload.seq_len] = new_key[0]
                value[sequence, :, : workload.seq_len] = new_value[0]
        self.cache = kind(key, value, workload.seq_len, self.capacity)

    @torch.inference_mode()
    def forward(self, hidden: Tensor) -> Tensor:
        """Compute one step; see the class for what `hidden` holds. Returns its shape.

        Raises:
            CacheOverflowError: The cache is full.
            RuntimeError: The cache was not filled.
        """
        with self.precision.applied():
            query, key, value = self._project(hidden)
            position = 0
            if self.reuses_cache:
                if self.cache is None:
                    raise RuntimeError("the cache is empty: call fill() with the context first")
                position = self.cache.length
                key, value = self.cache.append(key, value)
            elif self.cache_kind is None:
                self.kept = (key, value)
            assert query is not None
            out = self._backend.attend(query, key, value, position)
            batch, _, q_len, _ = out.shape
            projected: Tensor = self.o_proj(out.transpose(1, 2).reshape(batch, q_len, -1))
            return projected

    def _project(
        self, hidden: Tensor, *, queries: bool = True
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Return query, key and value, `(batch, heads, length, head_dim)`."""
        batch, length, _ = hidden.shape
        head_dim = self.configuration.workload.head_dim

        def heads(projected: Tensor) -> Tensor:
            return projected.view(batch, length, -1, head_dim).transpose(1, 2)

        query = heads(self.q_proj(hidden)) if queries else None
        return query, heads(self.k_proj(hidden)), heads(self.v_proj(hidden))
