"""Loads an exported result as working attention. Runs no code from the file."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from variants.configuration import Configuration
from variants.deploy.deployment import Deployment, picked
from variants.deploy.loading_schema import (
    CHOICE_OF,
    SCHEMA_VERSION,
    LoadableEnvironment,
    LoadableFile,
    LoadableHead,
    Pick,
    Prefer,
)
from variants.deploy.model_choice import ModelChoice
from variants.detect import detect_device
from variants.device import Device, DeviceKind
from variants.plugins import load_plugin, missing_plugins, read_plugin
from variants.program import program
from variants.support import unsupported_reasons
from variants.user_error import UserError


class LoadError(UserError):
    """A file that cannot be loaded here; the message says what was expected."""


def load(
    path: str | Path,
    *,
    pick: Pick | None = None,
    prefer: Prefer | None = None,
    strict: bool = False,
    device: DeviceKind | None = None,
    other_device: bool = False,
    plugins: Sequence[str | Path] = (),
    **workload: Any,
) -> Deployment:
    """Return an exported result as attention, cache and quantization for a model.

    Args:
        path: A file written by `python -m search export`.
        pick: `single`, one choice of precision, quantization, cache, kv_dtype and gqa for all
            workloads, or `dispatch`, the winner of each workload: these must agree in what cannot
            change within a model, so fields mostly have to pick one. As exported if not given.
        prefer: `latency`, `memory` or `balanced`; as exported if not given.
        strict: Only what is within the usual error, in files of studies that accepted more.
        device: `cuda` or `cpu`; CUDA if there is one.
        other_device: Accept a file that was measured on another device.
        plugins: Files of yours to run first, whose backends, score_mods or caches were searched.
        **workload: Fields that pick some of the workloads, `q_heads=32, kv_heads=8`.

    Warns once, where it was measured with another torch, CUDA or cuDNN: times may differ.

    Raises:
        LoadError: The file is not an export, was measured on another device, holds no such
            workload or choice, needs a plugin that is not given, or this machine cannot run it;
            the reasons are in the message.
        PluginError: A plugin cannot be loaded.
        OSError: The file cannot be read.
    """
    content = Path(path).read_bytes()
    for plugin in plugins:
        load_plugin(read_plugin(plugin))
    file = _parse(Path(path), content)
    name = ("strict_" if strict else "") + CHOICE_OF[prefer or file.prefer]
    here = detect_device(device)
    if not other_device:
        _check_device(file.environment.device, here)
    _warn_of_other_software(Path(path), file.environment, here)
    if (pick or file.pick) == "single":
        configurations, model = _single(file, name, workload)
    else:
        configurations, model = _dispatched(file, name, workload)
    _check_heads(configurations)
    for configuration in configurations:
        reasons = unsupported_reasons(configuration, here)
        if reasons:
            raise LoadError(f"{here.name} cannot run {configuration.key}: {'; '.join(reasons)}")
    return Deployment(configurations, model, here, hashlib.sha256(content).hexdigest()[:8])


def _parse(path: Path, content: bytes) -> LoadableFile:
    try:
        head = LoadableHead.model_validate_json(content)
        _check_head(path, head)
        return LoadableFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the file"
    raise LoadError(
        f"{path} is not an export of schema version {SCHEMA_VERSION}: {where}: {first['msg']}"
    )


def _check_head(path: Path, head: LoadableHead) -> None:
    version = head.schema_version
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise LoadError(
            f"{path} is of schema version {version}, and this version reads {SCHEMA_VERSION}: "
            f"export the study again"
        )
    if missing := missing_plugins(head.plugins):
        raise LoadError(
            f"{path} was made with plugins that are not loaded: {', '.join(missing)}; name the "
            f"same files as plugins=[...]"
        )


def _check_device(there: Device, here: Device) -> None:
    if (there.kind, there.name) != (here.kind, here.name):
        raise LoadError(
            f"it was measured on {there.name} ({there.kind}), and this is {here.name} "
            f"({here.kind}): search here, or load with other_device=True"
        )


def _warn_of_other_software(path: Path, there: LoadableEnvironment, here: Device) -> None:
    """Warn of versions that differ: which kernel runs, and how fast, depends on them."""
    import torch

    versions: dict[str, tuple[object, object]] = {"torch": (there.device.torch, here.torch)}
    if there.device.kind == here.kind == "cuda":
        versions["CUDA"] = (there.cuda, torch.version.cuda)
        versions["cuDNN"] = (there.device.cudnn, here.cudnn)
    differ = [f"{name} {then}, not {now}" for name, (then, now) in versions.items() if then != now]
    if differ:
        warnings.warn(
            f"{path} was measured with {'; '.join(differ)}: its times may not hold here, and its "
            f"winners may not win; `{program()} verify` measures them again",
            stacklevel=3,
        )


def _single(
    file: LoadableFile, name: str, fields: dict[str, Any]
) -> tuple[list[Configuration], ModelChoice]:
    if name not in file.single:
        known = ", ".join(file.single) or "none: nothing was measured"
        raise LoadError(f"choice must be one of {known}; got {name}")
    single = file.single[name]
    chosen = [
        entry.configurations[place].resolved(entry.workload)
        for entry, place in zip(file.workloads, single.choices, strict=True)
        if place is not None
    ]
    return _select(chosen, fields), single.model


def _dispatched(
    file: LoadableFile, name: str, fields: dict[str, Any]
) -> tuple[list[Configuration], ModelChoice]:
    known = dict.fromkeys(name for entry in file.workloads for name in entry.choices)
    if name not in known:
        raise LoadError(
            f"choice must be one of {', '.join(known) or 'none: nothing was measured'}; got {name}"
        )
    chosen = [
        entry.configurations[entry.choices[name]].resolved(entry.workload)
        for entry in file.workloads
        if name in entry.choices
    ]
    configurations = _select(chosen, fields)
    model = ModelChoice.of(configurations[0].variant)
    for of in configurations[1:]:
        merged = model.merged(ModelChoice.of(of.variant))
        if merged is None:
            raise LoadError(
                f"the winners must agree in what a loaded model cannot change, got {model.label} "
                f"and {ModelChoice.of(of.variant).label} (for {of.workload.key}): pick one "
                f"workload by its fields, or load with pick='single'"
            )
        model = merged
    return configurations, model


def _select(
    configurations: Sequence[Configuration], fields: dict[str, Any]
) -> list[Configuration]:
    try:
        found = picked(configurations, fields)
    except ValueError as error:
        raise LoadError(str(error)) from None
    if not found:
        keys = ", ".join(of.workload.key for of in configurations) or "none"
        raise LoadError(f"the fields must pick a workload, got 0; there are: {keys}")
    return found


def _check_heads(configurations: Sequence[Configuration]) -> None:
    names = ("q_heads", "kv_heads", "head_dim")
    heads = dict.fromkeys(
        tuple(getattr(of.workload, name) for name in names) for of in configurations
    )
    if len(heads) > 1:
        found = ", ".join("{}:{} of {}".format(*one) for one in heads)
        raise LoadError(
            f"a model has one kind of heads, and the file has {found}: pick by {', '.join(names)}"
        )
