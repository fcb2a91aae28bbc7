"""Attention of a loaded model: each call is computed the way the nearest measured workload was."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from variants.backends import BACKENDS, Attention
from variants.configuration import Configuration
from variants.deploy.dispatch import (
    CallSignature,
    DispatchDecision,
    MeasuredWorkloads,
    PreparedRoute,
    Route,
)
from variants.deploy.layer_cache import CachedKV, KeepsKeys, RememberedRoute
from variants.deploy.model_choice import ModelChoice
from variants.deploy.step_state import NotCapturableError
from variants.device import Device
from variants.executions import EXECUTIONS
from variants.gqa import grouped_heads
from variants.kv_dtypes import KeyValue
from variants.precisions import PRECISIONS, Precision
from variants.score_mods import parse_score_mod
from variants.turns import Turns
from variants.workload import Phase

CAPACITY = 4096  # tokens that a backend is prepared for at first; doubled where a call has more


def _multiplying(precision: Precision) -> AbstractContextManager[None]:
    wanted = torch.get_float32_matmul_precision() != precision.matmul
    return precision.applied() if wanted else nullcontext()


# How float32 is multiplied is one setting of the process.
_MATMUL = Turns(_multiplying)


class DispatchWarning(UserWarning):
    """A call is computed in a way that was not measured for its like. Said once for each kind."""


class DispatchedAttention:
    """A callable over keys and values of standard shapes, `(batch, heads, tokens, head_dim)`.

    Backend and execution follow phase, batch and length: those of the nearest workload that was
    measured. A decision is made once for each signature and found by a bisection afterwards.
    """

    def __init__(
        self, measured: Sequence[Configuration], model: ModelChoice, device: Device
    ) -> None:
        """Serve the heads of `measured`, of which there is one configuration a workload."""
        self.measured, self.model, self._device = tuple(measured), model, device
        self.workload = measured[0].workload
        self._groups = self.workload.q_heads // self.workload.kv_heads
        self._precision = PRECISIONS[model.precision]
        self._turn = None if self._precision.matmul is None else _MATMUL.of(self._precision)
        self._score_mods = tuple(dict.fromkeys(of.workload.score_mod for of in measured))
        # Whether a step can be computed in another way where no batch is padded.
        self._choices = MeasuredWorkloads(self.measured, model, device, self._say)
        self._counts = any(map(self._choices.counts_keys, measured))
        self._decisions: dict[tuple[object, ...], DispatchDecision] = {}
        self._said: set[tuple[object, ...]] = set()

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        cache: KeepsKeys | None = None,
        mask: Tensor | None = None,
        score_mod: str | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """Return softmax(QKᵀ · scale)V under the score_mod, of the query's shape.

        Args:
            query: `(batch, q_heads, q_len, head_dim)`, the last tokens of the sequence.
            key: `(batch, kv_heads, kv_len, head_dim)`; of the new tokens alone where there is a
                cache.
            value: As key.
            cache: Takes the new tokens; attention is over all that it then holds.
            mask: Which keys each row sees, booleans of `(batch or 1, 1, q_len, kv_len)`, in place
                of causality and of the score_mod's own mask (which still changes scores).
            score_mod: As in `--score-mod`; the only one that was measured if not given.
            scale: Of the scores; 1/√head_dim if not given.

        Raises:
            ValueError: Heads, type or mask are not those of the model that was measured.
            CacheOverflowError: The cache is full.
        """
        held = CachedKV.given(query, key, value) if cache is None else cache.append(key, value)
        return self.attend(query, held, mask, score_mod, scale)

    def attend(
        self,
        query: Tensor,
        held: CachedKV,
        mask: Tensor | None = None,
        score_mod: str | None = None,
        scale: float | None = None,
        kv: KeyValue | None = None,
    ) -> Tensor:
        """Attend to what a cache holds, or `kv`, `taken` from it; the rest as in a call."""
        memory = held.memory
        if memory is not None and mask is None:
            route = memory.route
            if (
                route is not None
                and route.attention is self
                and route.shortest <= held.length <= route.longest
                and route.signature == (query.shape, query.dtype, score_mod, scale)
                and not (torch.is_grad_enabled() and query.requires_grad)
            ):
                key, value = held.read(False) if kv is None else kv
                if self._turn is None:
                    return route.attend(query, key, value)
                with self._turn:
                    return route.attend(query, key, value)
        if held.fixed and mask is not None:
            raise NotCapturableError("the model makes a mask of its own in each step")
        decision = self._decision(query, held, mask is not None, score_mod, scale)
        way = self._way(decision, held.length)
        if held.fixed:
            if self._counts:
                held.depend_on_padding()
            if not way.counts:
                mask = held.visible(score_mod or self._only_score_mod())
        if self._turn is None:
            out = self._along(way, query, held, mask, kv)
        else:
            with self._turn:
                out = self._along(way, query, held, mask, kv)
        if memory is not None and mask is None:
            like = (query.shape, query.dtype, score_mod, scale)
            memory.route = self._remembered(decision, way, like, held)
        return out

    def way(
        self,
        query: Tensor,
        held: CachedKV,
        masked: bool = False,
        score_mod: str | None = None,
        scale: float | None = None,
    ) -> PreparedRoute:
        """Return how a call will be computed: what `attend` decides before it computes."""
        return self._way(self._decision(query, held, masked, score_mod, scale), held.length)

    def _decision(
        self,
        query: Tensor,
        held: CachedKV,
        masked: bool,
        score_mod: str | None,
        scale: float | None,
    ) -> DispatchDecision:
        batch, q_heads, q_len, head_dim = query.shape
        # A plain tuple of plain values: this is the path of every call.
        found = (
            q_len == 1,
            query.requires_grad and torch.is_grad_enabled(),
            batch,
            q_heads,
            head_dim,
            query.dtype,
            score_mod,
            scale,
            masked,
            held.windowed,
            held.paged,
            held.fixed,
            held.padded,
            held.layout,
        )
        decision = self._decisions.get(found)
        if decision is None:
            self._check(query, held)
            decision = self._decisions[found] = self._decide(CallSignature(*found))
        length = held.length
        if not held.fixed and not decision.shortest <= length <= decision.longest:
            self._say_outside(CallSignature(*found).phase, decision, length)
        return decision

    def _way(self, decision: DispatchDecision, length: int) -> PreparedRoute:
        index = bisect_right(decision.bounds, length)
        way = decision.ways[index]
        if length >= way.capacity:
            way = decision.ways[index] = self._prepare(
                decision.signature, way.configuration, max(2 * way.capacity, length + 1)
            )
        return way

    def _remembered(
        self,
        decision: DispatchDecision,
        way: PreparedRoute,
        like: tuple[object, ...],
        held: CachedKV,
    ) -> RememberedRoute | None:
        """Return what serves calls like one that has been computed, with fewer calls; or None."""
        place = held.place
        if (
            way.unmasked is None
            or way.whole
            or way.grouped.repeat is not None
            or decision.signature.trains
            or place.q_len != 1
            or place.kv_len != place.position + 1
        ):
            return None
        return RememberedRoute(self, like, *decision.around(held.length), way.unmasked)

    def _along(
        self,
        way: PreparedRoute,
        query: Tensor,
        held: CachedKV,
        mask: Tensor | None,
        kv: KeyValue | None,
    ) -> Tensor:
        if mask is not None:
            if mask.dtype is not torch.bool or mask.shape[-1] != self._keys_of(held):
                raise ValueError(
                    f"mask must hold booleans for {self._keys_of(held)} keys, got "
                    f"{mask.dtype} of shape {tuple(mask.shape)}"
                )
            place = held.place._replace(visible=held.in_order(mask))
        else:
            if way.whole:
                whole = held.whole()
                if whole is not held:
                    held, kv = whole, None
            place = held.place
        if kv is None:
            kv = held.read(way.stored)
        if way.grouped.repeat is not None:
            kv = way.grouped.given(kv, self._groups)
        scales = None if held.codec is None else held.codec.scales
        return way.attend(query, kv, way.mask(place), scales)

    @staticmethod
    def _keys_of(held: CachedKV) -> int:
        return held.length if held.paged else held.place.kv_len

    def _only_score_mod(self) -> str:
        if len(self._score_mods) > 1:
            raise ValueError(
                f"score_mod must be named where several were measured: "
                f"{', '.join(self._score_mods)}"
            )
        return self._score_mods[0]

    def _decide(self, signature: CallSignature) -> DispatchDecision:
        """Find the measured workloads that are like a call, and prepare their backends."""
        named = signature.score_mod or self._only_score_mod()
        signature = signature._replace(score_mod=parse_score_mod(named).canonical)
        measured = self._choices.like(signature)
        if not measured:
            way = self._prepare(signature, self._choices.default(signature), CAPACITY)
            return DispatchDecision(signature, [], [way], 0, float("inf"))
        route = Route(measured, signature.batch)
        if not route.batch_measured:
            low, high = route.batches
            self._say(
                f"batch {signature.batch} lies outside of {low} to {high}, which were measured in "
                f"{signature.phase}; the nearest is used"
            )
        ways = [self._prepare(signature, of, CAPACITY) for of in route.configurations]
        return DispatchDecision(signature, route.bounds, ways, route.shortest, route.longest)

    def _check(self, query: Tensor, held: CachedKV) -> None:
        layout, head_dim = held.layout, self.workload.head_dim
        wanted = {
            "query": (self.workload.q_heads, query.shape[1], query.shape[3]),
            "key": (self.workload.kv_heads, layout.key_heads, layout.head_dim),
            "value": (self.workload.kv_heads, layout.value_heads, layout.value_dim),
        }
        for name, (count, got, width) in wanted.items():
            if (got, width) != (count, head_dim):
                raise ValueError(
                    f"{name} must have {count} heads of {head_dim}, which were measured; "
                    f"got {got} of {width}"
                )
        if query.dtype is not self._precision.dtype:
            raise ValueError(
                f"query must be of {self._precision.dtype}, for the precision that was chosen; "
                f"got {query.dtype}"
            )

    def _prepare(
        self, signature: CallSignature, configuration: Configuration, capacity: int
    ) -> PreparedRoute:
        workload, variant = configuration.workload, configuration.variant
        backend, execution = BACKENDS[variant.backend], EXECUTIONS[variant.execution]
        support = self._choices.support(variant)
        grouped = grouped_heads(variant.gqa)
        scores = parse_score_mod(signature.scores)
        if signature.windowed:  # what is kept is the window: nothing is left to hide
            scores = scores.without_window()
            scores = scores if scores.parts else parse_score_mod("none")
        device = torch.device(self._device.kind)
        scale = signature.head_dim**-0.5 if signature.scale is None else signature.scale
        prepared = backend.prepare(
            Attention(
                scores=scores,
                mod=scores.bind(workload.q_heads, device),
                batch=signature.batch,
                q_heads=workload.q_heads,
                kv_heads=grouped.kv_heads(workload),
                head_dim=workload.head_dim,
                scale=scale,
                places=(),
                capacity=capacity,
                kv_capacity=capacity,
                grows=True,
                paged=signature.paged,
                decodes=signature.phase is Phase.DECODE,
                trains=signature.trains,
                inlined=execution.compiles,
                dtype=signature.dtype,
                device=device,
                variant=variant,
            )
        )
        attend: Callable[..., Tensor] = prepared.attend_scaled
        if execution.compiles:
            options = backend.compile_options(self._device.kind, prepared)
            attend = torch.compile(attend, fullgraph=True, dynamic=True, options=options)
        if execution.captures and not signature.fixed:
            self._say(
                f"execution {execution.name} captures a whole step, which attention alone cannot: "
                f"its kernels are launched one by one here (Deployment.layer captures)"
            )
        return PreparedRoute(
            configuration=configuration,
            mask=prepared.mask,
            attend=attend,
            grouped=grouped,
            whole=backend.whole_buffer and not signature.windowed,
            counts=support.counts_keys and signature.fixed and not signature.padded,
            stored=support.reads(
                self.model.kv_dtype, self.model.precision, self._device.capability
            ),
            capacity=capacity,
            unmasked=None if execution.compiles else prepared.unmasked(),
        )

    def _say_outside(self, phase: Phase, decision: DispatchDecision, length: int) -> None:
        side = "below" if length < decision.shortest else "above"
        if (phase, side) not in self._said:
            self._said.add((phase, side))
            self._say(
                f"{length} tokens lie {side} the {decision.shortest} to {decision.longest} that "
                f"were measured in {phase}; the nearest is used"
            )

    def _say(self, text: str) -> None:
        if (text,) not in self._said:
            self._said.add((text,))
            warnings.warn(text, DispatchWarning, stacklevel=5)
