"""The `--in-model` of `verify`: default and winner in a whole model, as words and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from objectives.in_model.schema import InModel, InModelJob
from objectives.trial.bench import DeviceBench
from search.options.choices import UsageError
from search.views.layout import NONE, make_table
from studies.export.document import Export
from studies.export.promise import (
    DEFAULT,
    KEPT,
    WINNER,
    Promise,
    ServedLayers,
    came_ms,
    is_slower,
    loaded_fields,
    promises,
    served_layers,
)
from studies.results.labels import (
    gain,
    mebibytes,
    milliseconds,
    speed,
    variant_label,
    workload_label,
)
from variants.models import MODELS, Model, ModelError, read_model

NEW_TOKENS, ROUNDS = 48, 3


@dataclass(frozen=True, slots=True)
class InModelSettings:
    """How a model is to generate; what is None is the exported workload's, or what fits."""

    source: str
    prompt: int | None
    batch: int | None
    new_tokens: int
    layers: int | None
    rounds: int


@dataclass(frozen=True, slots=True)
class TriedInModel:
    """What came of a whole model, beside what was promised for it."""

    job: InModelJob | None = None  # None: the choice is the default, and nothing was run
    found: InModel = field(default_factory=InModel)
    promises: Mapping[str, Promise] = field(default_factory=dict)  # by side
    no_promise: str = ""  # why there is none
    slower: bool = False  # the winner than the default


def try_in_model(
    console: Console,
    bench: DeviceBench,
    document: Export,
    file: Path,
    settings: InModelSettings,
    *,
    other_device: bool,
) -> TriedInModel:
    """Generate with default and winner, and print and return what came of it.

    Raises:
        UsageError: There is no such model, or the file has nothing for it.
        ProcessError: The measuring process ended.
    """
    source, shape = _model(settings.source)
    served = served_layers(document, shape, settings.batch, settings.prompt)
    first = served[0].workload.workload
    if served[0].choice.variant == served[0].workload.default.configuration.variant:
        console.print(
            f"the choice for {workload_label(first, ())} is the default: nothing to try in a model"
        )
        return TriedInModel()
    job = InModelJob(
        file=str(file.resolve()),
        pick=document.pick,
        prefer=document.prefer,
        other_device=other_device,
        picked=loaded_fields(document, served),
        source=source,
        batch=settings.batch or first.batch,
        prompt=settings.prompt or first.seq_len,
        new_tokens=settings.new_tokens,
        layers=settings.layers,
        rounds=settings.rounds,
    )
    found = bench.in_model(job)
    if found.refused:
        raise UsageError(f"--in-model: {found.refused}")
    _say_model(console, job, found, served, shape)
    made, why_not = promises(served, shape, found)
    _say_sides(console, found, served, made)
    _say_promises(console, found, made, why_not)
    _say_tokens(console, found)
    slower = is_slower(found)
    if slower:
        console.print("the winner is slower than the default in this model", style="red")
    return TriedInModel(job, found, made, why_not, slower)


def _model(text: str) -> tuple[str, Model]:
    """Return what the measuring process is told of a model, and its shape."""
    path = Path(text)
    if text not in MODELS and path.exists():
        text = str(path.resolve())
    try:
        return text, read_model(text)
    except ModelError as error:
        raise UsageError(f"--in-model: {error}") from None
    except ValueError as error:
        raise UsageError(f"--in-model: {error}, nor is there such a file or folder") from None


def _say_model(
    console: Console, job: InModelJob, found: InModel, served: Sequence[ServedLayers], shape: Model
) -> None:
    weights = f"{found.weights_mib / 1024:.1f} GiB of {'random ' * found.random}weights"
    lines = [
        f"{found.model}: {found.layers} of {found.layers_named} layers, {weights} in "
        f"{found.dtype}; {job.batch} × {job.prompt} tokens of prompt, {job.new_tokens} new, "
        f"{job.rounds} rounds in turns"
    ]
    if found.assumed:
        lines.append(f"{job.source} says nothing of the rest: assumed are {found.assumed}")
    measured = served[0].workload.workload
    if (measured.batch, measured.seq_len) != (job.batch, job.prompt):
        lines.append(f"the nearest exported workload is {workload_label(measured, ())}")
    if measured.hidden_size != shape.hidden_size:
        lines.append(
            f"projections were measured at hidden_size {measured.hidden_size}, and the model has "
            f"{shape.hidden_size}"
        )
    precisions = [
        of.precision
        for of in (served[0].workload.default.configuration.variant, served[0].choice.variant)
    ]
    if precisions[0] != precisions[1]:
        lines.append(f"the default was measured in {precisions[0]}; here it has the winner's type")
    lines.append(
        "decode steps of the winner are captured (transformers captured)"
        if found.captured
        else f"the winner is launched kernel by kernel (transformers eager): {found.not_captured}"
    )
    for line in (*lines, *found.notes):
        console.print(line, highlight=False)


def _say_sides(
    console: Console,
    found: InModel,
    served: Sequence[ServedLayers],
    made: dict[str, Promise],
) -> None:
    variants = {
        DEFAULT: f"transformers' {found.attention}",
        WINNER: variant_label(served[0].choice.variant),
    }
    table = make_table("")
    for heading in ("side", "runs"):
        table.add_column(heading)
    for heading in ("ms a token", "rounds", "faster", "peak MiB", "promised ms", "off"):
        table.add_column(heading, justify="right")
    for side, taken in found.sides.items():
        came, promise = came_ms(found, side), made.get(side)
        table.add_row(
            side,
            variants[side],
            milliseconds(came),
            f"{milliseconds(min(taken.ms))}–{milliseconds(max(taken.ms))}",
            speed(came / came_ms(found, DEFAULT)),
            NONE if taken.peak_mib is None else mebibytes(taken.peak_mib),
            NONE if promise is None else milliseconds(promise.ms),
            NONE if promise is None else f"{promise.deviation(came):+.1%}",
        )
    console.print(table)
    console.print(
        "peak MiB is beside the weights, the prompt's included; first answers, with all that is "
        "compiled and captured, took "
        + " and ".join(f"{one.first_s:.1f} s ({side})" for side, one in found.sides.items()),
        highlight=False,
    )


def _say_promises(
    console: Console, found: InModel, made: dict[str, Promise], why_not: str
) -> None:
    if why_not:
        console.print(f"no promise for all of it: {why_not}", highlight=False)
    for side, promise in made.items():
        off = promise.deviation(came_ms(found, side))
        kept = "kept" if abs(off) <= KEPT else f"off by more than {KEPT:.0%}"
        console.print(
            f"promised for the {side}: {milliseconds(promise.attention_ms)} ms of attention as "
            f"measured + {milliseconds(promise.rest_ms)} ms of the rest = "
            f"{milliseconds(promise.ms)} ms a token; {milliseconds(came_ms(found, side))} came "
            f"({off:+.1%}): {kept}",
            highlight=False,
        )
    if len(made) == len(found.sides):
        ratio = made[WINNER].ms / made[DEFAULT].ms
        came = came_ms(found, WINNER) / came_ms(found, DEFAULT)
        console.print(
            f"promised {gain(ratio, 'faster', 'slower')}, came {gain(came, 'faster', 'slower')}",
            highlight=False,
        )


def _say_tokens(console: Console, found: InModel) -> None:
    kernels = ", ".join(f"on {name} {n}" for name, n in found.same_by_kernel.items())
    console.print(
        f"the first {found.compared_tokens} tokens are the default's in {found.same} of "
        f"{found.sequences} sequences"
        + (f"; of the default itself {kernels} of {found.sequences}" if kernels else ""),
        highlight=False,
    )
