"""Reads the facts of the device that this process can use. Initialises CUDA: workers only."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from variants.backends import BACKENDS
from variants.backends.kernel_package import installed_versions
from variants.device import Device, DeviceKind
from variants.quantizations import QUANTIZATIONS, dry_run
from variants.user_error import UserError


class DeviceMissingError(UserError):
    """The device asked for is not one this machine has."""


def detect_device(
    kind: DeviceKind | None = None, failed_quantizations: Mapping[str, str] | None = None
) -> Device:
    """Return the facts of the CUDA device if there is one, else of the CPU; or of `kind`.

    `failed_quantizations` are taken for granted if given: to try them takes seconds of imports.

    Raises:
        DeviceMissingError: `kind` is cuda and PyTorch sees no CUDA device.
    """
    import torch

    if kind != "cpu" and torch.cuda.is_available():
        return _cuda_device(failed_quantizations)
    if kind == "cuda":
        raise DeviceMissingError(
            f"device must be one this machine has (cpu), got cuda: "
            f"torch {torch.__version__} sees no CUDA device"
        )
    return Device(
        kind="cpu",
        name=_cpu_name(),
        memory_bytes=_host_memory_bytes(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        cpp_compiler=_has_cpp_compiler(),
        torchao=_version("torchao"),
        failed_quantizations=_failed_quantizations("cpu", failed_quantizations),
    )


def _cuda_device(failed_quantizations: Mapping[str, str] | None) -> Device:
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Device(
        kind="cuda",
        name=properties.name,
        capability=(properties.major, properties.minor),
        memory_bytes=properties.total_memory,
        l2_bytes=properties.L2_cache_size,
        torch=torch.__version__,
        cudnn=torch.backends.cudnn.version(),
        triton=_version("triton"),
        cpp_compiler=_has_cpp_compiler(),
        torchao=_version("torchao"),
        kernel_packages=_kernel_packages("cuda"),
        failed_quantizations=_failed_quantizations("cuda", failed_quantizations),
    )


def _kernel_packages(kind: DeviceKind) -> dict[str, str]:
    """Look for what optional backends need, without importing any of it."""
    return installed_versions(
        package
        for backend in BACKENDS.values()
        if kind in backend.support
        for package in backend.all_packages
    )


def _version(distribution: str) -> str | None:
    return version(distribution) if importlib.util.find_spec(distribution) else None


def _failed_quantizations(kind: DeviceKind, known: Mapping[str, str] | None) -> dict[str, str]:
    """Try each quantization once on one small projection, unless it is known which fail."""
    if known is not None:
        return dict(known)
    import torch

    has_torchao = _version("torchao") is not None
    found = {
        name: dry_run(name, torch.device(kind))
        for name, entry in QUANTIZATIONS.items()
        if entry.quantize is not None
        and kind in entry.devices
        and (has_torchao or not entry.needs_torchao)
    }
    return {name: why for name, why in found.items() if why}


def _has_cpp_compiler() -> bool:
    """Look where Inductor looks, without the seconds that importing it takes. Install none."""
    usual = "clang++" if sys.platform == "darwin" else "g++"
    try:
        subprocess.run(
            [os.environ.get("CXX", usual), "--version"], check=True, capture_output=True
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _host_memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
