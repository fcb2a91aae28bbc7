"""The document of `support`: what a device can run, and why not the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import Field

from objectives.schema.evaluation import Outcome
from search.documents.json_document import Document, Part
from search.views.support_listing import Cell, CheckedSupport, core_cells, other_cells
from studies.results.labels import variant_label, workload_label
from variants.axes import Choice
from variants.device import Device


class Place(Part):
    """Choices that were asked about together; of other axes, the simplest that go with them."""

    choices: dict[str, str] = Field(description="A choice for each axis that is asked about")
    runs: bool = Field(description="Whether the device can run it in any precision")
    precisions: tuple[str, ...] = Field(description="In which it can")
    reasons: tuple[str, ...] = Field(description="Why it cannot; empty where it runs")


class TriedPlace(Part):
    """A combination that was tried on the device."""

    workload: str = Field(description="In words")
    variant: str = Field(description="In words")
    declared: tuple[str, ...] = Field(description="Reasons against it; empty: it should run")
    outcome: Outcome = Field(description="What came of it")
    detail: str = Field(description="The reason of another outcome than MEASURED")
    accepted_by_pytorch: bool | None = Field(
        description="PyTorch's own answer; null where it has none"
    )
    disagreement: str = Field(description="How declaration and device differ; empty: not at all")


class SupportDocument(Document):
    """What a device can run."""

    device: Device = Field(description="The device that is asked about")
    core: tuple[Place, ...] = Field(description="Backends and precisions by score_mod")
    others: tuple[Place, ...] = Field(
        description="Choices of the other axes by backend, one at a time"
    )
    tried: tuple[TriedPlace, ...] | None = Field(
        description="Of `--check`: what was tried; null without"
    )


def support_document(
    device: Device,
    given: Mapping[str, tuple[Choice, ...]],
    tried: Iterable[CheckedSupport] | None = None,
) -> SupportDocument:
    """Return the document of a device; `given` are the axes that were named."""
    return SupportDocument(
        command="support",
        device=device,
        core=tuple(
            _place(cell, dict(zip(("backend", "precision"), cell.row, strict=True)), "score_mod")
            for cell in core_cells(device, given)
        ),
        others=tuple(
            _place(cell, {cell.row[0]: cell.row[1]}, "backend")
            for cell in other_cells(device, given)
        ),
        tried=None if tried is None else tuple(map(_tried, tried)),
    )


def _place(cell: Cell, choices: Mapping[str, str], column: str) -> Place:
    against = cell.refused[0][1] if cell.refused and not cell.supported else ()
    return Place(
        choices={**choices, column: cell.column},
        runs=bool(cell.supported),
        precisions=tuple(dict.fromkeys(c.variant.precision for c in cell.supported)),
        reasons=against,
    )


def _tried(checked: CheckedSupport) -> TriedPlace:
    return TriedPlace(
        workload=workload_label(checked.configuration.workload, ()),
        variant=variant_label(checked.configuration.variant),
        declared=checked.reasons,
        outcome=checked.outcome,
        detail=checked.detail,
        accepted_by_pytorch=checked.accepts,
        disagreement=checked.disagreement,
    )
