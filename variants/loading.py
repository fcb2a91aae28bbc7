"""Loads an exported winner as working attention. Runs no code from the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from variants.backends import BACKENDS
from variants.configuration import Configuration
from variants.detect import detect_device
from variants.device import DeviceKind
from variants.inputs import Weights, random_weights
from variants.layer import AttentionLayer
from variants.loading_schema import (
    SCHEMA_VERSION,
    LoadableChoice,
    LoadableFile,
    LoadableWorkload,
)
from variants.support import unsupported_reasons
from variants.workload import Workload


class LoadError(ValueError):
    """A file that cannot be loaded here; the message says what was expected."""


def load(
    path: str | Path,
    *,
    choice: str = "balanced",
    device: DeviceKind | None = None,
    weights: Weights | None = None,
    capacity: int | None = None,
    **workload: Any,
) -> AttentionLayer:
    """Return an exported winner as a layer that computes attention the way it was measured.

    Args:
        path: A file written by `python -m search export`.
        choice: `lowest_latency`, `lowest_memory` or `balanced`; with `strict_` before it, the one
            within the usual error, in files of studies that accepted more.
        device: `cuda` or `cpu`; CUDA if there is one.
        weights: Unrounded projections; random ones if not given, to be replaced through
            `load_state_dict` (`q_proj.weight`, `k_proj.weight`, `v_proj.weight`, `o_proj.weight`)
            where they are not quantized.
        capacity: Tokens that a cache can hold; the workload's own if not given.
        **workload: Fields that pick one of several workloads, `batch=4, seq_len=2048`.

    Raises:
        LoadError: The file is not an export, holds no such workload or choice, or this machine
            cannot run it; the reasons are in the message.
        OSError: The file cannot be read.
    """
    found = _pick(_read(Path(path)), workload)
    if choice not in found.choices:
        known = ", ".join(found.choices) or "none: nothing was measured for this workload"
        raise LoadError(f"choice must be one of {known}; got {choice}")
    configuration = _resolved(found.choices[choice])
    here = detect_device(device)
    reasons = unsupported_reasons(configuration, here)
    if reasons:
        raise LoadError(f"{here.name} cannot run {configuration.key}: {'; '.join(reasons)}")
    if weights is None:
        weights = random_weights(configuration.workload, torch.device(here.kind), seed=0)
    return AttentionLayer(configuration, weights, capacity=capacity)


def _read(path: Path) -> LoadableFile:
    try:
        return LoadableFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise LoadError(
            f"{path} is not an export of schema version {SCHEMA_VERSION}: {where}: {first['msg']}"
        ) from None


def _pick(file: LoadableFile, fields: Mapping[str, Any]) -> LoadableWorkload:
    unknown = fields.keys() - Workload.model_fields.keys()
    if unknown:
        raise LoadError(
            f"workload fields must be among {', '.join(Workload.model_fields)}; "
            f"got {', '.join(sorted(unknown))}"
        )
    matching = [
        entry
        for entry in file.workloads
        if all(getattr(entry.workload, name) == value for name, value in fields.items())
    ]
    if len(matching) != 1:
        keys = ", ".join(entry.workload.key for entry in matching or file.workloads)
        raise LoadError(
            f"the fields must pick one workload, got {len(matching)}; there are: {keys}"
        )
    return matching[0]


def _resolved(choice: LoadableChoice) -> Configuration:
    """Pin the backend that ran, where SDPA had chosen it."""
    variant = choice.configuration.variant
    if BACKENDS[variant.backend].searched or choice.resolved_backend is None:
        return choice.configuration
    pinned = variant.model_copy(update={"backend": choice.resolved_backend})
    return Configuration(workload=choice.configuration.workload, variant=pinned)
