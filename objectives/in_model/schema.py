"""What is asked of a whole model, and what came of it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from objectives.schema.evaluation import Measured
from variants.deploy.loading_schema import Pick, Prefer


class InModelJob(BaseModel):
    """An exported file, a model, and how it is to generate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str  # what `export` wrote
    pick: Pick
    prefer: Prefer
    other_device: bool  # the file may be of another device
    picked: dict[str, Any]  # fields of the workloads that are loaded
    source: str  # a name of `variants.models`, a config.json, or the folder of a model
    batch: int = Field(ge=1)
    prompt: int = Field(ge=1)  # tokens of each sequence
    new_tokens: int = Field(ge=1)  # that are timed
    layers: int | None = Field(ge=1)  # None: as many as fit in memory
    rounds: int = Field(ge=1)


class TakenInModel(BaseModel):
    """What one side took: the default, or the winner."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ms: tuple[Measured, ...]  # a token, one of each round
    peak_mib: float | None  # beside the weights, the prompt included; None on a CPU
    rest_ms: Measured | None  # a token without projections, cache and attention
    first_s: float  # the first answer, with all that is compiled, planned and captured


class InModel(BaseModel):
    """Default and winner in one model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    refused: str = ""  # one line: why nothing was measured
    model: str = ""  # its class
    layers: int = 0
    layers_named: int = 0  # that its configuration names
    weights_mib: float = 0.0
    random: bool = True  # the weights
    assumed: str = ""  # what the source did not say
    dtype: str = ""  # of the weights, for both sides
    attention: str = ""  # what the model takes by default, in transformers' words
    sides: dict[str, TakenInModel] = {}  # default and winner
    captured: bool = False  # the winner's decode steps
    not_captured: str = ""  # why not
    notes: tuple[str, ...] = ()  # what is computed otherwise than it was measured
    compared_tokens: int = 0  # at the beginning of each answer
    sequences: int = 0
    same: int = 0  # sequences whose compared tokens are those of the default
    # The same for the default on certain kernels of PyTorch: what rounding alone does.
    same_by_kernel: dict[str, int] = {}
