"""What a study searches and in which environments: fixed when it is created, read when resumed."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from objectives.schema.environment import Environment
from objectives.schema.errors import one_line
from objectives.schema.limits import Limits
from studies.space.space import SearchSpace
from studies.study.attributes import ENVIRONMENT, PLAN, StudyError, read_stored
from studies.study.snapshot import StudyAttributes
from variants.plugins import Plugin, missing_plugins

MOST_SEED = 2**32 - 1  # that NumPy takes
RAW_OBJECTIVES = ("peak_memory_mib", "latency_ms")
RATIO_OBJECTIVES = ("peak_memory_vs_default", "latency_vs_default")


class Plan(BaseModel):
    """What a study searches and how; fixed when it is created."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    space: SearchSpace
    limits: Limits
    sampler: str
    seed: int = Field(ge=0, le=MOST_SEED)
    plugins: tuple[Plugin, ...] = ()  # whose names the space may hold; never loaded from here


def plan_of(study: StudyAttributes) -> Plan:
    """Return the plan of a study.

    Raises:
        StudyError: It was written by an incompatible version, or with a plugin that is not loaded
            or has changed.
    """
    of = f"study {study.study_name}"
    stored = study.user_attrs.get(PLAN)
    named = stored.get("plugins") if isinstance(stored, dict) else None
    try:
        plugins = tuple(Plugin.model_validate(plugin) for plugin in named or ())
    except (ValidationError, TypeError) as error:
        raise StudyError(f"{of} cannot be read: {PLAN}: {one_line(error)}") from None
    if missing := missing_plugins(plugins):
        raise StudyError(
            f"{of} was made with --plugin {', '.join(missing)}; name the same file again"
        )
    return read_stored(Plan, study.user_attrs, PLAN, of)


def environments_of(study: StudyAttributes) -> list[Environment]:
    """Return the environments that the study was measured in, the present one last.

    Raises:
        StudyError: They cannot be read.
    """
    attributes, of = study.user_attrs, f"study {study.study_name}"
    later = sum(key.startswith(f"{ENVIRONMENT}:") for key in attributes)
    keys = [ENVIRONMENT, *(f"{ENVIRONMENT}:{number}" for number in range(2, 2 + later))]
    return [read_stored(Environment, attributes, key, of) for key in keys]


def number_of(known: Sequence[Environment], environment: Environment) -> int | None:
    """Return the number of an environment in a study that was measured in those, from 1."""
    same = (n for n, there in enumerate(known, 1) if not there.differences(environment))
    return next(same, None)


def environment_of(study: StudyAttributes) -> Environment:
    """Return the present environment of the study; raises as `environments_of` does."""
    return environments_of(study)[-1]


def add_environment(study: optuna.Study, environment: Environment) -> None:
    """Continue a study in another environment; its trials are marked from now on."""
    number = len(environments_of(study)) + 1
    study.set_user_attr(f"{ENVIRONMENT}:{number}", environment.model_dump(mode="json"))


def objective_names(space: SearchSpace) -> tuple[str, str]:
    """Return the names of the two objectives that Optuna minimises, memory first.

    Raw values would only crown the smallest of several workloads, so there the default's is
    what it is divided by.
    """
    return RAW_OBJECTIVES if len(space.workloads()) == 1 else RATIO_OBJECTIVES
