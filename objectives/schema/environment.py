"""What a measurement is valid for: the device and the software that took it."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from pydantic import BaseModel, ConfigDict

from variants.device import Device

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
    """Return the installed version of this product, or `unknown` when it runs uninstalled."""
    try:
        return version("goldilocks-attention")
    except PackageNotFoundError:
        return "unknown"


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
