"""What a measurement is valid for: the device and the software that took it."""

from __future__ import annotations

import platform
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from variants.device import Device

_PRODUCT = "goldilocks-attention"
# What the same machine reports differently from day to day: a virtual machine's memory grows.
_VARYING = {"device.memory_bytes"}


class Environment(BaseModel):
    """The environment of a study. They must agree before a study is resumed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Device
    driver: str | None  # NVIDIA driver; None on CPU
    cuda: str | None  # CUDA that torch was built for
    python: str
    platform: str
    goldilocks: str  # our own version

    def differences(self, other: Environment) -> list[str]:
        """Name each fact that differs, as `driver: 580.1 there, 590.2 here` (`other` is here)."""
        there, here = _flat(self), _flat(other)
        return [
            f"{name}: {there.get(name)} there, {here.get(name)} here"
            for name in sorted((there.keys() | here.keys()) - _VARYING)
            if there.get(name) != here.get(name)
        ]


def _flat(environment: Environment) -> dict[str, object]:
    facts = environment.model_dump()
    device: dict[str, object] = facts.pop("device")
    return facts | {f"device.{name}": value for name, value in device.items()}


def own_version() -> str:
    """Return the version of this product, or `unknown` where nothing tells it.

    In a checkout that of its pyproject.toml: what is installed may be another one.
    """
    try:
        return _checkout_version(Path(__file__).parents[2]) or version(_PRODUCT)
    except PackageNotFoundError:
        return "unknown"


def _checkout_version(root: Path) -> str | None:
    """Return the version in a folder's pyproject.toml; None where it is not this product's."""
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except (OSError, ValueError, KeyError):
        return None
    return str(project["version"]) if project.get("name") == _PRODUCT else None


def read_environment(device: Device) -> Environment:
    """Read the environment of this process, whose device is `device`."""
    import torch

    return Environment(
        device=device,
        driver=_driver_version() if device.kind == "cuda" else None,
        cuda=torch.version.cuda,
        python=".".join(map(str, sys.version_info[:3])),
        platform=f"{platform.system()} {platform.machine()}",
        goldilocks=own_version(),
    )


def _driver_version() -> str | None:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()
