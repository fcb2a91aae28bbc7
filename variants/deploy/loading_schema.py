"""The part of an exported file that loading needs; what else it holds is ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, model_validator

from variants.backends import BACKENDS
from variants.configuration import Configuration
from variants.deploy.model_choice import ModelChoice
from variants.device import Device
from variants.plugins import Plugin
from variants.variant import Variant
from variants.workload import Workload

# Rises when a file of an earlier version would be loaded wrongly; what loading ignores may be
# added without.
SCHEMA_VERSION: Final = 3

Pick = Literal["dispatch", "single"]
Prefer = Literal["latency", "memory", "balanced"]
ChoiceName = Literal["lowest_latency", "lowest_memory", "balanced"]
# What a choice is called in the file; `strict_` in front where only small errors are accepted.
CHOICE_OF: Final[Mapping[Prefer, ChoiceName]] = {
    "latency": "lowest_latency",
    "memory": "lowest_memory",
    "balanced": "balanced",
}


class LoadableChoice(BaseModel):
    """What loading needs of a variant that was chosen; the rest of its record is ignored."""

    model_config = ConfigDict(frozen=True)

    variant: Variant
    resolved_backend: str | None  # what ran when it was measured

    def resolved(self, workload: Workload) -> Configuration:
        """Return the configuration with the backend that ran, where SDPA had chosen it."""
        variant = self.variant
        if not BACKENDS[variant.backend].searched and self.resolved_backend is not None:
            variant = variant.model_copy(update={"backend": self.resolved_backend})
        return Configuration(workload=workload, variant=variant)


class LoadableWorkload(BaseModel):
    """What loading needs of one exported workload."""

    model_config = ConfigDict(frozen=True)

    workload: Workload
    configurations: tuple[LoadableChoice, ...]  # each once, whatever it was chosen as
    # By lowest_latency, lowest_memory, balanced: places among the configurations.
    choices: Mapping[str, NonNegativeInt]

    @model_validator(mode="after")
    def _holds_its_choices(self) -> LoadableWorkload:
        for name, place in self.choices.items():
            if place >= len(self.configurations):
                raise ValueError(
                    f"choices.{name} must be below {len(self.configurations)}, the number of "
                    f"configurations, got {place}"
                )
        return self


class LoadableSingle(BaseModel):
    """One choice of the model's axes, and the best that it allows for each workload."""

    model_config = ConfigDict(frozen=True)

    model: ModelChoice
    # For each workload in order, the place among its configurations; None where it was not
    # measured.
    choices: tuple[NonNegativeInt | None, ...]

    def check_choices(self, workloads: Sequence[LoadableWorkload]) -> None:
        """Check that it has a place for each workload, among that one's configurations.

        Raises:
            ValueError: It has not.
        """
        if len(self.choices) != len(workloads):
            raise ValueError(
                f"a single choice must have a place for each of {len(workloads)} workloads, got "
                f"{len(self.choices)}"
            )
        for place, workload in zip(self.choices, workloads, strict=True):
            if place is not None and place >= len(workload.configurations):
                raise ValueError(
                    f"a single choice's place must be below {len(workload.configurations)}, the "
                    f"number of configurations of {workload.workload.key}, got {place}"
                )


class LoadableEnvironment(BaseModel):
    """Where it was measured."""

    model_config = ConfigDict(frozen=True)

    device: Device
    cuda: str | None = None  # that torch was built for


class LoadableFile(BaseModel):
    """What loading needs of an exported file."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[3]
    environment: LoadableEnvironment
    pick: Pick
    prefer: Prefer
    workloads: tuple[LoadableWorkload, ...]
    single: Mapping[str, LoadableSingle]  # by the same names as choices

    @model_validator(mode="after")
    def _holds_its_single_choices(self) -> LoadableFile:
        for single in self.single.values():
            single.check_choices(self.workloads)
        return self


class LoadableHead(BaseModel):
    """What is read first, to say what is missing before the rest can be understood."""

    model_config = ConfigDict(frozen=True)

    schema_version: object = None
    plugins: tuple[Plugin, ...] = ()  # asked for, never loaded from here
