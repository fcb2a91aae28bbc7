"""What an exported file promises a whole model, beside what came of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from objectives.in_model.schema import InModel
from studies.export.document import Export, ExportedChoice, ExportedWorkload
from studies.study.verdicts import MARGIN
from variants.deploy.loading_schema import CHOICE_OF
from variants.models import Model
from variants.user_error import UserError

KEPT = 0.1  # a promise that came within a tenth is kept
DEFAULT, WINNER = "default", "winner"


class InModelError(UserError):
    """A file that holds nothing to try in a model; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class ServedLayers:
    """Layers of one kind, and the exported workload that is nearest to what they do."""

    count: int  # in the whole model
    workload: ExportedWorkload
    choice: ExportedChoice


@dataclass(frozen=True, slots=True)
class Promise:
    """Milliseconds a token of one side: attention as it was measured, and the rest."""

    attention_ms: float  # of all layers
    rest_ms: float
    ms: float

    def deviation(self, came_ms: float) -> float:
        """Return by how much more came: 0.1 for a tenth."""
        return came_ms / self.ms - 1


def served_layers(
    document: Export, shape: Model, batch: int | None, prompt: int | None
) -> list[ServedLayers]:
    """Return what the file chose for each kind of a model's layers, the most frequent first.

    Of several workloads, the nearest in logarithms of batch and length; where neither is given,
    the first. Kinds that were not measured are left out.

    Raises:
        InModelError: No workload decodes with the model's heads, or none of its kinds.
    """
    heads = (shape.q_heads, shape.kv_heads, shape.head_dim)
    decoding = [
        (workload, choice)
        for workload in document.workloads
        if workload.workload.decodes and (choice := _choice(document, workload)) is not None
    ]
    alike = [found for found in decoding if _heads(found[0]) == heads]
    if not alike:
        there = dict.fromkeys("{}:{} of {}".format(*_heads(found[0])) for found in decoding)
        raise InModelError(
            f"the file must have decode workloads with the heads of {shape.name}, "
            f"{'{}:{} of {}'.format(*heads)}; got {', '.join(there) or 'none'}"
        )
    served = []
    for kind, count in sorted(shape.layers.items(), key=lambda item: -item[1]):
        of_kind = [found for found in alike if found[0].workload.score_mod == kind]
        if of_kind:
            first = of_kind[0][0].workload
            wanted = (batch or first.batch, prompt or first.seq_len)
            nearest = min(of_kind, key=lambda found: _distance(found[0], *wanted))
            served.append(ServedLayers(count, *nearest))
    if not served:
        there = dict.fromkeys(found[0].workload.score_mod for found in alike)
        raise InModelError(
            f"the file must have decode workloads of a kind of layers that {shape.name} has, "
            f"{', '.join(shape.layers)}; got {', '.join(there)}"
        )
    return served


def _choice(document: Export, workload: ExportedWorkload) -> ExportedChoice | None:
    """Return what loading takes for a workload."""
    name = CHOICE_OF[document.prefer]
    if document.pick == "dispatch":
        return workload.chosen.get(name)
    return document.of_single(name)[document.workloads.index(workload)]


def _heads(workload: ExportedWorkload) -> tuple[int, int, int]:
    of = workload.workload
    return of.q_heads, of.kv_heads, of.head_dim


def _distance(workload: ExportedWorkload, batch: int, tokens: int) -> float:
    of = workload.workload
    return math.hypot(math.log(of.batch / batch), math.log(of.seq_len / tokens))


def loaded_fields(document: Export, served: Sequence[ServedLayers]) -> dict[str, int | str]:
    """Return the fields that pick what is loaded: a model's heads, and one shape of a dispatch."""
    of = served[0].workload.workload
    fields: dict[str, int | str] = {
        name: getattr(of, name) for name in ("q_heads", "kv_heads", "head_dim")
    }
    if document.pick == "dispatch":
        fields |= {"phase": of.phase.value, "batch": of.batch, "seq_len": of.seq_len}
    return fields


def promises(
    served: Sequence[ServedLayers], shape: Model, found: InModel
) -> tuple[dict[str, Promise], str]:
    """Return what was promised for each side, or in words why nothing was.

    A captured step is bound by the GPU: GPU time of the layers as measured and the rest of the
    model, captured alike. What is launched kernel by kernel is bound by the host or by the GPU,
    whichever needs more for layers and rest together.
    """
    missing = [kind for kind in shape.layers if kind not in
               {one.workload.workload.score_mod for one in served}]  # fmt: skip
    if missing:
        return {}, f"decoding with score_mod {', '.join(missing)} was not measured"
    if any(side.rest_ms is None for side in found.sides.values()):
        return {}, "the model has no layers with q_proj, k_proj, v_proj and o_proj to leave out"
    share = found.layers / found.layers_named
    made = {}
    for side in (DEFAULT, WINNER):
        costs = [_costs(one, side) for one in served]
        if any(cost is None for cost in costs):
            continue
        counts = [share * one.count for one in served]
        gpu, host = (
            sum(n * cost[i] for n, cost in zip(counts, costs, strict=True) if cost is not None)
            for i in (0, 1)
        )
        made[side] = _promise(gpu, host, found, side)
    return made, "" if DEFAULT in made else "the default failed where it was measured"


def _promise(gpu_ms: float, host_ms: float, found: InModel, side: str) -> Promise:
    rest_ms = found.sides[side].rest_ms
    gpu_rest_ms = found.sides[WINNER if found.captured else side].rest_ms
    assert rest_ms is not None
    assert gpu_rest_ms is not None
    by_gpu = Promise(gpu_ms, gpu_rest_ms, gpu_ms + gpu_rest_ms)
    if found.captured and side == WINNER:
        return by_gpu
    return max(by_gpu, Promise(host_ms, rest_ms, host_ms + rest_ms), key=lambda one: one.ms)


def _costs(served: ServedLayers, side: str) -> tuple[float, float] | None:
    """Return GPU and host time of one layer and step, in ms."""
    workload, choice = served.workload, served.choice
    measured = workload.default.measurements if side == DEFAULT else choice.measurements
    if measured is None:
        return None
    latency, layers = measured.latency, workload.workload.layers
    # On a CPU the host computes, and there is but one time.
    gpu = latency.host if latency.gpu is None else latency.gpu
    return gpu.value / layers, latency.host.value / layers


def came_ms(found: InModel, side: str) -> float:
    """Return the milliseconds a token that a side took: the median of its rounds."""
    return median(found.sides[side].ms)


def is_slower(found: InModel) -> bool:
    """Tell whether the winner took longer than the default, beyond what is the same."""
    return came_ms(found, WINNER) > came_ms(found, DEFAULT) * (1 + MARGIN)
