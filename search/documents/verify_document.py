"""The documents of `verify`: old against new, and what came of a whole model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from objectives.in_model.schema import InModel, InModelJob
from objectives.schema.environment import Environment
from objectives.schema.evaluation import Evaluation, Outcome
from search.documents.json_document import Document, Part
from studies.export.document import ExportedWorkload
from studies.export.promise import Promise, came_ms
from studies.export.verification import CheckedConfiguration, Claim
from studies.numerics.interval import Interval
from studies.results.labels import variant_label, workload_label


class Span(Part):
    """A number with its 95 % interval; both ends are the number itself where it is exact."""

    value: float = Field(description="The number")
    low: float = Field(description="Its interval's lower end")
    high: float = Field(description="Its interval's upper end")


class CheckedClaim(Part):
    """One number of one exported choice, as it was and as it is."""

    what: str = Field(description="Which number, and its unit")
    old: Span = Field(description="As it was exported")
    new: Span | None = Field(description="As measured now; null where it could not be")
    state: Literal["holds", "broken", "unclear", "not checked"] = Field(
        description="What came of it"
    )
    why: str = Field(description="Why it is broken or unclear; else empty")


class CheckedChoice(Part):
    """One exported configuration, measured again."""

    workload: str = Field(description="In words")
    choices: tuple[str, ...] = Field(description="Names of the choices that are this one")
    variant: str = Field(description="In words")
    claims: tuple[CheckedClaim, ...] = Field(description="Its latency, memory and error")


class CheckedDefault(Part):
    """A workload's default, measured again."""

    workload: str = Field(description="In words")
    variant: str = Field(description="In words")
    old_ms: float | None = Field(description="Latency as exported; null where it had none")
    new_ms: float | None = Field(description="Latency now; null where it has none")
    outcome: Outcome | None = Field(
        description="What came of measuring it; null where it was not measured again"
    )


class VerifyDocument(Document):
    """Whether an exported file still tells the truth."""

    file: str = Field(description="The file that was checked")
    environment: Environment = Field(description="Where it was checked")
    differences: tuple[str, ...] = Field(description="How that differs from the file's")
    claims: int = Field(description="How many there are")
    broken: int = Field(description="How many no longer hold; exit status 1 where any")
    unclear: int = Field(description="Of how many nothing can be said; exit status 3")
    unchecked: int = Field(description="How many could not be checked")
    defaults: tuple[CheckedDefault, ...] = Field(description="The default of each workload")
    choices: tuple[CheckedChoice, ...] = Field(description="The choices of each workload")


class SideInModel(Part):
    """Default or winner in the model."""

    ms_a_token: float = Field(description="Median of the rounds")
    rounds_ms: tuple[float, ...] = Field(description="A token of each round")
    peak_mib: float | None = Field(description="Beside the weights; null on a CPU")
    first_answer_s: float = Field(description="With all that is compiled and captured")
    promised_ms: float | None = Field(description="By the file; null where it promises nothing")
    attention_ms: float | None = Field(description="Of it, attention as it was measured")
    deviation: float | None = Field(description="By how much more came: 0.1 is a tenth")


class InModelDocument(Document):
    """Default and winner in a whole model: `verify --in-model`."""

    file: str = Field(description="The file that was tried")
    differences: tuple[str, ...] = Field(description="How this place differs from the file's")
    tried: bool = Field(description="False: the choice is the default, and nothing was run")
    model: str = Field(description="Its class; empty where nothing was run")
    layers: int = Field(description="Layers that were run")
    batch: int = Field(description="Prompts")
    prompt: int = Field(description="Tokens of each")
    new_tokens: int = Field(description="Tokens a prompt that were timed")
    captured: bool = Field(description="Whether the winner's decode steps are captured")
    not_captured: str = Field(description="Why not; empty where they are")
    no_promise: str = Field(description="Why the file promises nothing; empty where it does")
    sides: dict[str, SideInModel] = Field(description="`default` and `winner`")
    slower: bool = Field(description="The winner is slower than the default; exit status 1")


def checked_choices(
    workload: ExportedWorkload, checked: Sequence[CheckedConfiguration]
) -> tuple[CheckedChoice, ...]:
    """Return what came of a workload's choices."""
    label = workload_label(workload.workload, ())
    return tuple(
        CheckedChoice(
            workload=label,
            choices=one.names,
            variant=variant_label(one.configuration.variant),
            claims=tuple(map(_claim, one.claims)),
        )
        for one in checked
    )


def checked_default(workload: ExportedWorkload, again: Evaluation | None) -> CheckedDefault:
    """Return what came of a workload's default; `again` is it measured again, if it was."""
    return CheckedDefault(
        workload=workload_label(workload.workload, ()),
        variant=variant_label(workload.default.configuration.variant),
        old_ms=workload.default.latency_ms,
        new_ms=None if again is None else again.latency_ms,
        outcome=None if again is None else again.outcome,
    )


def _claim(claim: Claim) -> CheckedClaim:
    new = None if claim.new is None else _span(claim.new)
    state: Literal["holds", "broken", "unclear", "not checked"] = (
        "not checked" if new is None else "holds"
    )
    if claim.broken:
        state = "broken"
    elif claim.unclear:
        state = "unclear"
    why = claim.broken or claim.unclear
    return CheckedClaim(what=claim.what, old=_span(claim.old), new=new, state=state, why=why)


def _span(interval: Interval) -> Span:
    return Span(value=interval.value, low=interval.low, high=interval.high)


def in_model_document(
    file: str,
    differences: Sequence[str],
    job: InModelJob | None,
    found: InModel,
    made: Mapping[str, Promise],
    no_promise: str,
    *,
    slower: bool,
) -> InModelDocument:
    """Return the document of a model; `job` is None where there was nothing to try."""
    return InModelDocument(
        command="verify",
        file=file,
        differences=tuple(differences),
        tried=job is not None,
        model=found.model,
        layers=found.layers,
        batch=0 if job is None else job.batch,
        prompt=0 if job is None else job.prompt,
        new_tokens=0 if job is None else job.new_tokens,
        captured=found.captured,
        not_captured=found.not_captured,
        no_promise=no_promise,
        sides={side: _side(side, found, made.get(side)) for side in found.sides},
        slower=slower,
    )


def _side(side: str, found: InModel, promise: Promise | None) -> SideInModel:
    taken, came = found.sides[side], came_ms(found, side)
    return SideInModel(
        ms_a_token=came,
        rounds_ms=taken.ms,
        peak_mib=taken.peak_mib,
        first_answer_s=taken.first_s,
        promised_ms=None if promise is None else promise.ms,
        attention_ms=None if promise is None else promise.attention_ms,
        deviation=None if promise is None else promise.deviation(came),
    )
