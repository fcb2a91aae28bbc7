"""Measures what a device reaches at its best: the rates of its roofline, once for a study."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from objectives.roofline.bound import Peaks
from variants.precisions import PRECISIONS

REPEATS = 10
LAUNCHES = 200


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Large enough to reach the peak, small enough for a second in all."""

    half: int  # rows and columns of a product
    full: int
    copied_bytes: int


_OF = {"cuda": _Sizes(8192, 4096, 2**29), "cpu": _Sizes(512, 512, 2**25)}


def measure_peaks(device: torch.device) -> Peaks:
    """Return the best of some repeats of large products and copies.

    Raises:
        torch.OutOfMemoryError: Something else fills the device.
    """
    sizes = _OF[device.type]
    half = _products(torch.bfloat16, "bf16", sizes.half, device)
    return Peaks(
        eight_bit_tflops=_eight_bit(sizes.half, device) or half,
        half_tflops=half,
        tf32_tflops=_products(torch.float32, "tf32", sizes.full, device),
        fp32_tflops=_products(torch.float32, "fp32", sizes.full, device),
        bandwidth_gb_s=_copies(sizes.copied_bytes, device),
        launch_us=_launches(device),
    )


def _products(dtype: torch.dtype, precision: str, size: int, device: torch.device) -> float:
    # Random numbers: of constants, products draw less power, and a GPU clocks higher.
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(one)
    with PRECISIONS[precision].applied():
        seconds = _best_s(lambda: torch.mm(one, other, out=out), device)
    return 2 * size**3 / seconds / 1e12


def _eight_bit(size: int, device: torch.device) -> float | None:
    """Return the rate of float8 products, or None where there are none."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        return None
    scale = torch.ones((), device=device)
    one = torch.randn(size, size, device=device).to(torch.float8_e4m3fn)

    def product() -> object:
        return torch._scaled_mm(one, one.t(), scale, scale, out_dtype=torch.bfloat16)

    return 2 * size**3 / _best_s(product, device) / 1e12


def _copies(nbytes: int, device: torch.device) -> float:
    source, target = (torch.ones(nbytes, dtype=torch.int8, device=device) for _ in range(2))
    return 2 * nbytes / _best_s(lambda: target.copy_(source), device) / 1e9


def _best_s(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest of some repeats, after one to warm up."""
    work()
    if device.type == "cpu":
        return min(_wall_s(work) for _ in range(REPEATS))
    times = []
    for _ in range(REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(float(start.elapsed_time(end)) / 1e3)
    return min(times)


def _wall_s(work: Callable[[], object]) -> float:
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def _launches(device: torch.device) -> float:
    """Return the host's microseconds to launch an operation that does almost nothing."""
    tensor = torch.zeros(1, device=device)

    def launch() -> None:
        for _ in range(LAUNCHES):
            tensor.add_(1)

    launch()
    best = min(_wall_s(launch) for _ in range(REPEATS))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return best / LAUNCHES * 1e6
