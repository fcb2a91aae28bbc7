"""Default and winner generate in one model, in turns. In the measuring process."""

from __future__ import annotations

import gc
import random
import statistics
from collections.abc import Callable
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from objectives.in_model.generating import SHORT, GeneratedTurn, generate, take_turn
from objectives.in_model.schema import InModel, InModelJob, TakenInModel
from objectives.in_model.sides import DEFAULT, WINNER, Sides
from variants.deploy.deployment import Deployment
from variants.deploy.loading import load
from variants.deploy.rest_of_model import attention_layers
from variants.deploy.whole_model import WholeModel, build_model, layers_that_fit
from variants.device import DeviceKind

COMPARED = 8  # tokens at the beginning of an answer; one that differs changes all that follow
FILLED = 0.9  # of the memory that is free
# Of PyTorch's own, those beside which tokens are compared: for half precision, and for fp32.
KERNELS = (
    (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION),
    (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH),
)


def measure_in_model(
    job: InModelJob, kind: DeviceKind, seed: int, on_stage: Callable[[str], None]
) -> InModel:
    """Build the model, and let default and winner generate in turns.

    Raises:
        UserError: The file cannot be loaded, or the model cannot be built.
        torch.OutOfMemoryError: The model has no room.
    """
    on_stage("build")
    device = torch.device(kind)
    picked: dict[str, Any] = dict(job.picked)
    loaded = load(
        job.file,
        pick=job.pick,
        prefer=job.prefer,
        device=kind,
        other_device=job.other_device,
        **picked,
    )
    capacity = job.prompt + SHORT + job.new_tokens + 1
    layers = job.layers or layers_that_fit(
        job.source, loaded.dtype, job.batch, capacity, _free_bytes(device)
    )
    whole = build_model(job.source, loaded.dtype, device, layers, capacity)
    generator = torch.Generator().manual_seed(seed)
    vocabulary = whole.model.config.get_text_config(decoder=True).vocab_size
    ids = torch.randint(2, vocabulary, (job.batch, job.prompt), generator=generator).to(device)
    sides = Sides(whole.model, loaded, capacity)
    turns: dict[str, list[GeneratedTurn]] = {DEFAULT: [], WINNER: []}
    order, resident = random.Random(seed), _allocated(device)
    for number in range(job.rounds):
        for side in order.sample(list(turns), len(turns)):
            on_stage(f"round {number + 1} of {job.rounds}, {side}")
            with sides.side(side) as given:
                turns[side].append(take_turn(whole.model, ids, job.new_tokens, given))
            _settle(device)
    rest = _rest(job, whole, sides, ids, on_stage)
    on_stage("tokens")
    by_kernel = _own_kernels(job, sides, whole, ids, turns)
    return _found(job, whole, loaded, sides, turns, rest, resident, by_kernel)


def _rest(
    job: InModelJob,
    whole: WholeModel,
    sides: Sides,
    ids: Tensor,
    on_stage: Callable[[str], None],
) -> dict[str, float | None]:
    """Return what a token costs without what the study has measured, by side."""
    found: dict[str, float | None] = {}
    for side in (DEFAULT, WINNER):
        if not attention_layers(whole.model):
            found[side] = None
            continue
        on_stage(f"rest of the model, {side}")
        with sides.side(side, rest=True) as given:
            found[side] = take_turn(whole.model, ids, job.new_tokens, given).ms
        _settle(ids.device)
    return found


def _own_kernels(
    job: InModelJob,
    sides: Sides,
    whole: WholeModel,
    ids: Tensor,
    turns: dict[str, list[GeneratedTurn]],
) -> dict[str, int]:
    """Return how many answers agree with the default's on kernels of PyTorch's own."""
    found: dict[str, int] = {}
    if sides.attention != "sdpa":
        return found
    default = turns[DEFAULT][-1].tokens
    with sides.side(DEFAULT) as given:
        for kernel in KERNELS[whole.model.dtype is torch.float32]:
            try:
                with sdpa_kernel(kernel):
                    _, tokens = generate(whole.model, ids, SHORT + job.new_tokens, given())
            except RuntimeError as error:
                declined = ("No available kernel", "No viable backend")
                if not any(words in str(error) for words in declined):
                    raise
            else:
                found[kernel.name.removesuffix("_ATTENTION").lower()] = _same(default, tokens)
    return found


def _same(one: Tensor, other: Tensor) -> int:
    return int((one[:, :COMPARED] == other[:, :COMPARED]).all(dim=1).sum())


def _found(
    job: InModelJob,
    whole: WholeModel,
    loaded: Deployment,
    sides: Sides,
    turns: dict[str, list[GeneratedTurn]],
    rest: dict[str, float | None],
    resident: int,
    by_kernel: dict[str, int],
) -> InModel:
    model = whole.model
    return InModel(
        model=type(model).__name__,
        layers=whole.layers,
        layers_named=whole.layers_named,
        weights_mib=sum(weight.nbytes for weight in model.parameters()) / 2**20,
        random=whole.random,
        assumed=whole.assumed,
        dtype=str(loaded.dtype).removeprefix("torch."),
        attention=sides.attention,
        sides={
            side: TakenInModel(
                ms=tuple(turn.ms for turn in taken),
                peak_mib=_peak_mib(taken, resident),
                rest_ms=rest[side],
                first_s=taken[0].first_s,
            )
            for side, taken in turns.items()
        },
        captured=not sides.not_captured,
        not_captured=sides.not_captured,
        notes=tuple(sides.notes),
        compared_tokens=min(COMPARED, SHORT + job.new_tokens),
        sequences=job.batch,
        same=_same(turns[DEFAULT][-1].tokens, turns[WINNER][-1].tokens),
        same_by_kernel=by_kernel,
    )


def _peak_mib(turns: list[GeneratedTurn], resident: int) -> float | None:
    peaks = [turn.peak_bytes for turn in turns if turn.peak_bytes is not None]
    return (statistics.median(peaks) - resident) / 2**20 if peaks else None


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated() if device.type == "cuda" else 0


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info()[0] * FILLED)
    return int(psutil.virtual_memory().available * FILLED)


def _settle(device: torch.device) -> None:
    """Leave nothing of a turn behind."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
