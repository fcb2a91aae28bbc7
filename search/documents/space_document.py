"""The document of `run --dry-run`: what would be searched."""

from __future__ import annotations

from pydantic import Field

from search.documents.json_document import Document
from studies.space.space import Survey
from variants.axes import Choice
from variants.device import Device


class SpaceDocument(Document):
    """A space, before anything of it is measured."""

    device: Device = Field(description="On which it would be measured")
    axes: dict[str, tuple[Choice, ...]] = Field(description="Choices of each axis")
    workloads: int = Field(description="How many workloads it has")
    possible: int = Field(description="Configurations that the device can run")
    impossible: dict[str, int] = Field(
        description="How many it cannot, by the reason, commonest first"
    )
    trials: int = Field(description="How many would be measured")
    expected_s: float = Field(description="Seconds that these would take, about")


def space_document(found: Survey, device: Device, trials: int, expected_s: float) -> SpaceDocument:
    """Return the document of a surveyed space."""
    return SpaceDocument(
        command="run",
        device=device,
        axes=dict(found.space.axes),
        workloads=len(found.workloads),
        possible=found.size,
        impossible=dict(found.impossible.most_common()),
        trials=min(trials, found.size),
        expected_s=expected_s,
    )
