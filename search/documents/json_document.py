"""What all documents of `--json` share."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from objectives.schema.environment import own_version


class Part(BaseModel):
    """A part of a document; numbers that are not finite are the text `Infinity` or `NaN`."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Document(Part):
    """What stands at the top of every document."""

    schema_version: Literal[1] = Field(
        default=1, description="Grows when a key goes or changes its meaning; keys may be added"
    )
    command: str = Field(description="The command that printed it")
    goldilocks: str = Field(default_factory=own_version, description="Version of this product")
