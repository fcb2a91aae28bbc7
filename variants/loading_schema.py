"""The part of an exported file that loading needs; what else it holds is ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from variants.configuration import Configuration
from variants.workload import Workload

SCHEMA_VERSION: Final = 1


class LoadableChoice(BaseModel):
    """What loading needs of one exported winner; the rest of its record is ignored."""

    model_config = ConfigDict(frozen=True)

    configuration: Configuration
    resolved_backend: str | None  # what ran when it was measured


class LoadableWorkload(BaseModel):
    """What loading needs of one exported workload."""

    model_config = ConfigDict(frozen=True)

    workload: Workload
    choices: Mapping[str, LoadableChoice]  # by lowest_latency, lowest_memory, balanced


class LoadableFile(BaseModel):
    """What loading needs of an exported file."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1]
    workloads: tuple[LoadableWorkload, ...]
