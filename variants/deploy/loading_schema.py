"""The part of an exported file that loading needs; what else it holds is ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from variants.backends import BACKENDS
from variants.configuration import Configuration
from variants.deploy.model_choice import ModelChoice
from variants.device import Device
from variants.plugins import Plugin
from variants.workload import Workload

# Rises when a file of an earlier version would be loaded wrongly; what loading ignores may be
# added without.
SCHEMA_VERSION: Final = 2

Pick = Literal["dispatch", "single"]
Prefer = Literal["latency", "memory", "balanced"]
# What a choice is called in the file; `strict_` in front where only small errors are accepted.
CHOICE_OF: Final[Mapping[Prefer, str]] = {
    "latency": "lowest_latency",
    "memory": "lowest_memory",
    "balanced": "balanced",
}


class LoadableChoice(BaseModel):
    """What loading needs of one exported winner; the rest of its record is ignored."""

    model_config = ConfigDict(frozen=True)

    configuration: Configuration
    resolved_backend: str | None  # what ran when it was measured

    @property
    def resolved(self) -> Configuration:
        """The configuration with the backend that ran, where SDPA had chosen it."""
        variant = self.configuration.variant
        if BACKENDS[variant.backend].searched or self.resolved_backend is None:
            return self.configuration
        pinned = variant.model_copy(update={"backend": self.resolved_backend})
        return Configuration(workload=self.configuration.workload, variant=pinned)


class LoadableWorkload(BaseModel):
    """What loading needs of one exported workload."""

    model_config = ConfigDict(frozen=True)

    workload: Workload
    choices: Mapping[str, LoadableChoice]  # by lowest_latency, lowest_memory, balanced


class LoadableSingle(BaseModel):
    """One choice of the model's axes, and the best that it allows for each workload."""

    model_config = ConfigDict(frozen=True)

    model: ModelChoice
    choices: tuple[LoadableChoice, ...]  # one a workload that was measured with it


class LoadableEnvironment(BaseModel):
    """Where it was measured."""

    model_config = ConfigDict(frozen=True)

    device: Device
    cuda: str | None = None  # that torch was built for


class LoadableFile(BaseModel):
    """What loading needs of an exported file."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[2]
    environment: LoadableEnvironment
    pick: Pick
    prefer: Prefer
    workloads: tuple[LoadableWorkload, ...]
    single: Mapping[str, LoadableSingle]  # by the same names as choices


class LoadableHead(BaseModel):
    """What is read first, to say what is missing before the rest can be understood."""

    model_config = ConfigDict(frozen=True)

    schema_version: object = None
    plugins: tuple[Plugin, ...] = ()  # asked for, never loaded from here
