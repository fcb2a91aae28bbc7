"""A device as data: the facts that support rules and rooflines read, never a live handle."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from variants.registry import Registry

DeviceKind = Literal["cpu", "cuda"]


class Device(BaseModel):
    """What is known about the machine part that runs attention.

    Facts come from the measuring process (`variants.detect`) or from a named profile, so
    that the rules for a GPU can be asked, and tested, on a machine without one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: DeviceKind
    name: str
    capability: tuple[int, int] | None = None  # CUDA compute capability; None on CPU
    memory_bytes: int  # of the device; on CPU, of the machine
    l2_bytes: int = 0  # L2 cache of a GPU; 0 on CPU
    threads: int | None = None  # intra-op threads on CPU
    torch: str = ""
    cudnn: int | None = None
    triton: str | None = None
    cpp_compiler: bool = False  # Inductor's CPU code needs one
    torchao: str | None = None
    packages: dict[str, str] = {}  # of kernels that PyTorch lacks: versions by distribution
    failed_quantizations: dict[str, str] = {}  # those whose dry run failed, with the reason


class DeviceProfile(BaseModel):
    """A device that stands in for one that this machine lacks."""

    model_config = ConfigDict(frozen=True)

    name: str
    device: Device


def _gpu(name: str, model: str, capability: tuple[int, int], gib: int, l2: int) -> DeviceProfile:
    device = Device(
        kind="cuda",
        name=model,
        capability=capability,
        memory_bytes=gib * 2**30,
        l2_bytes=l2 * 2**20,
        torch="2.11.0+cu130",
        cudnn=91900,
        triton="3.6.0",
        cpp_compiler=True,
        torchao="0.18.0",
        packages={"flash-attn-4": "4.0.0b36", "nvidia-cutlass-dsl": "4.8.1"},
    )
    return DeviceProfile(name=name, device=device)


DEVICE_PROFILES = Registry(
    "device profile",
    [
        DeviceProfile(
            name="cpu",
            device=Device(
                kind="cpu",
                name="CPU",
                memory_bytes=16 * 2**30,
                threads=2,
                torch="2.13.0+cpu",
                cpp_compiler=True,
                torchao="0.18.0",
            ),
        ),
        _gpu("a100", "NVIDIA A100-SXM4-80GB", (8, 0), 80, 40),
        _gpu("h100", "NVIDIA H100 80GB HBM3", (9, 0), 80, 50),
        _gpu("h200", "NVIDIA H200", (9, 0), 141, 60),
    ],
)
