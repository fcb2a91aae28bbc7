"""Attention of a loaded model: each call is computed the way the nearest measured workload was."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from variants.backends import BACKENDS, Attention, Takes
from variants.caches import StepPosition
from variants.configuration import Configuration, default_variant
from variants.deploy.dispatch import Route
from variants.deploy.layer_cache import CachedKV, KeepsKeys, Layout
from variants.deploy.model_choice import ModelChoice
from variants.device import Device
from variants.executions import EXECUTIONS
from variants.gqa import GroupedHeads, grouped_heads
from variants.kv_dtypes import KeyValue
from variants.precisions import PRECISIONS, Precision
from variants.score_mods import parse_score_mod
from variants.support import unsupported_reasons
from variants.turns import Turns
from variants.variant import Variant
from variants.workload import Phase

CAPACITY = 4096  # tokens that a backend is prepared for at first; doubled where a call has more


def _multiplying(precision: Precision) -> AbstractContextManager[None]:
    wanted = torch.get_float32_matmul_precision() != precision.matmul
    return precision.applied() if wanted else nullcontext()


# How float32 is multiplied is one setting of the process.
_MATMUL = Turns(_multiplying)


class DispatchWarning(UserWarning):
    """A call is computed in a way that was not measured for its like. Said once for each kind."""


class _CallSignature(NamedTuple):
    """What a decision depends on beside the length."""

    one_row: bool
    trains: bool
    batch: int
    q_heads: int
    head_dim: int
    dtype: torch.dtype
    score_mod: str | None
    scale: float | None
    masked: bool
    windowed: bool
    paged: bool
    fixed: bool  # one row at a position that only the device knows
    layout: Layout

    @property
    def phase(self) -> Phase:
        """What the model is doing."""
        if self.trains:
            return Phase.TRAIN
        return Phase.DECODE if self.one_row else Phase.PREFILL

    @property
    def scores(self) -> str:
        """The score_mod, once it is known."""
        assert self.score_mod is not None
        return self.score_mod


@dataclass(slots=True)
class _PreparedRoute:
    """One backend, ready for calls of one signature."""

    configuration: Configuration
    mask: Callable[[StepPosition], Any]  # what a call needs to know beside query, key and value
    attend: Callable[[Tensor, KeyValue, Any], Tensor]
    grouped: GroupedHeads  # how grouped heads reach the backend
    whole: bool  # it takes the whole buffer of a cache
    stored: bool  # it takes keys and values as they are stored
    capacity: int


@dataclass(slots=True)
class _Decision:
    """The ways of one signature, by length."""

    signature: _CallSignature
    bounds: list[float]
    ways: list[_PreparedRoute]
    shortest: float  # lengths between which it was measured
    longest: float


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
        self._decisions: dict[tuple[object, ...], _Decision] = {}
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
        if held.fixed:
            mask = held.visible(score_mod or self._only_score_mod(), mask)
        way = self.way(query, held, mask is not None, score_mod, scale)
        if self._turn is not None:
            with self._turn:
                return self._along(way, query, held, mask, kv)
        return self._along(way, query, held, mask, kv)

    def way(
        self,
        query: Tensor,
        held: CachedKV,
        masked: bool = False,
        score_mod: str | None = None,
        scale: float | None = None,
    ) -> _PreparedRoute:
        """Return how a call will be computed: what `attend` decides before it computes."""
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
            held.layout,
        )
        decision = self._decisions.get(found)
        if decision is None:
            self._check(query, held)
            decision = self._decisions[found] = self._decide(_CallSignature(*found))
        length = held.length
        if not held.fixed and not decision.shortest <= length <= decision.longest:
            self._say_outside(_CallSignature(*found).phase, decision, length)
        index = bisect_right(decision.bounds, length)
        way = decision.ways[index]
        if length >= way.capacity:
            way = decision.ways[index] = self._prepare(
                decision.signature, way.configuration, max(2 * way.capacity, length + 1)
            )
        return way

    def _along(
        self,
        way: _PreparedRoute,
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
        codec = held.codec
        if codec is not None and codec.key_scale is not None:
            query = query * self._by_query_head(codec.key_scale)
        out = way.attend(query, kv, way.mask(place))
        if codec is not None and codec.value_scale is not None:
            out = out * self._by_query_head(codec.value_scale)
        return out

    @staticmethod
    def _keys_of(held: CachedKV) -> int:
        return held.length if held.paged else held.place.kv_len

    def _by_query_head(self, scale: Tensor) -> Tensor:
        return scale.repeat_interleave(self._groups, dim=1)[:, :, None, None]

    def _only_score_mod(self) -> str:
        if len(self._score_mods) > 1:
            raise ValueError(
                f"score_mod must be named where several were measured: "
                f"{', '.join(self._score_mods)}"
            )
        return self._score_mods[0]

    def _decide(self, signature: _CallSignature) -> _Decision:
        """Find the measured workloads that are like a call, and prepare their backends."""
        named = signature.score_mod or self._only_score_mod()
        signature = signature._replace(score_mod=parse_score_mod(named).canonical)
        measured = self._like(signature)
        if not measured:
            way = self._prepare(signature, self._default(signature), CAPACITY)
            return _Decision(signature, [], [way], 0, float("inf"))
        route = Route(measured, signature.batch)
        if not route.batch_measured:
            low, high = route.batches
            self._say(
                f"batch {signature.batch} lies outside of {low} to {high}, which were measured in "
                f"{signature.phase}; the nearest is used"
            )
        ways = [self._prepare(signature, of, CAPACITY) for of in route.configurations]
        return _Decision(signature, route.bounds, ways, route.shortest, route.longest)

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

    def _like(self, signature: _CallSignature) -> list[Configuration]:
        """Return the measured configurations of a call's phase and score_mod that can take it."""
        score_mod = signature.scores
        like = [of for of in self.measured if of.workload.score_mod == score_mod]
        phases = [signature.phase]
        if self.model.cache == "none" and signature.phase is Phase.PREFILL:
            phases.append(Phase.DECODE)  # which recomputes everything, as a prompt
        here = next(
            (found for p in phases if (found := [of for of in like if of.workload.phase is p])), []
        )
        what = f"{signature.phase} with score_mod {score_mod}"
        if not here:
            default = self._default(signature).variant.backend
            self._say(f"{what} was not measured: backend {default} is used")
            return []
        if not signature.masked:
            return here
        taken = [of for of in here if self._takes(of.variant) > Takes.PLAIN]
        if len(taken) < len(here):
            refusing = sorted({of.variant.backend for of in here if of not in taken})
            instead = (
                taken[0].variant.backend if taken else self._default(signature).variant.backend
            )
            why, where = (
                ("a mask hides what a captured step has not reached", "in captured steps")
                if signature.fixed
                else ("padding needs one", "for padded batches")
            )
            self._say(
                f"{what}: backend {', '.join(refusing)} takes no mask, and {why}: {instead} is "
                f"used {where}"
            )
        return taken

    def _takes(self, variant: Variant) -> Takes:
        return BACKENDS[variant.backend].support[self._device.kind].takes

    def _default(self, signature: _CallSignature) -> Configuration:
        """Return what PyTorch does for a user who chose nothing, with the model's choices.

        Raises:
            ValueError: No backend can.
        """
        workload = self.workload.model_copy(
            update={"phase": signature.phase, "score_mod": signature.scores}
        )
        usual = default_variant(workload, self._device).backend
        for backend in (usual, *BACKENDS):
            chosen = self.model.model_dump() | {"backend": backend, "execution": "eager"}
            found = Configuration.of(workload, chosen)
            if not unsupported_reasons(found, self._device) and not (
                signature.masked and self._takes(found.variant) is Takes.PLAIN
            ):
                return found
        raise ValueError(
            f"no backend computes {signature.phase} with score_mod {signature.scores} for a "
            f"model of {self.model.label}"
        )

    def _prepare(
        self, signature: _CallSignature, configuration: Configuration, capacity: int
    ) -> _PreparedRoute:
        workload, variant = configuration.workload, configuration.variant
        backend, execution = BACKENDS[variant.backend], EXECUTIONS[variant.execution]
        support = backend.support[self._device.kind]
        grouped = grouped_heads(variant.gqa)
        scores = parse_score_mod(signature.scores)
        if signature.windowed:  # what is kept is the window: nothing is left to hide
            scores = scores.without_window()
            scores = scores if scores.parts else parse_score_mod("none")
        device = torch.device(self._device.kind)
        scale = signature.head_dim**-0.5 if signature.scale is None else signature.scale
        prepared = backend.prepare(
            Attention(
                mod=scores.bind(workload.q_heads, device),
                plain=scores.plain,
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
                trains=signature.trains,
                inlined=execution.compiles,
                dtype=signature.dtype,
                device=device,
                variant=variant,
            )
        )
        attend: Callable[..., Tensor] = prepared.attend
        if execution.compiles:
            options = dict(backend.inductor_options.get(self._device.kind, {}))
            attend = torch.compile(attend, fullgraph=True, dynamic=True, options=options)
        if execution.captures and not signature.fixed:
            self._say(
                f"execution {execution.name} captures a whole step, which attention alone cannot: "
                f"its kernels are launched one by one here (Deployment.layer captures)"
            )
        return _PreparedRoute(
            configuration=configuration,
            mask=prepared.mask,
            attend=attend,
            grouped=grouped,
            whole=backend.whole_buffer and not signature.windowed,
            stored=support.reads(
                self.model.kv_dtype, self.model.precision, self._device.capability
            ),
            capacity=capacity,
        )

    def _say_outside(self, phase: Phase, decision: _Decision, length: int) -> None:
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
