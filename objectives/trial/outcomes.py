"""Which outcome a trial comes to, by its measurements or by the error that ended it."""

from __future__ import annotations

import torch

from objectives.roofline.bound import bound
from objectives.schema.evaluation import Measurements, Outcome
from objectives.schema.limits import Limits
from variants.backends import BACKENDS
from variants.configuration import Configuration
from variants.device import Device
from variants.quantizations import QUANTIZATIONS

IMPLAUSIBLE = 0.95  # share of the datasheet bound below which no measurement is believed


def outcome_of(
    configuration: Configuration,
    measurements: Measurements,
    limits: Limits,
    device: Device,
    when: str = "",
) -> tuple[Outcome, str]:
    """Return the outcome of what was measured, and the reason for it, empty where it is MEASURED.

    `when` says when the error was taken, where that is worth a word.
    """
    asked, latency, memory = (
        configuration.variant.backend,
        measurements.latency,
        measurements.memory,
    )
    if BACKENDS[asked].searched and measurements.backend_ran != asked:
        return Outcome.REFUSED, f"{asked} was asked for, {measurements.backend_ran} ran"
    quantization = QUANTIZATIONS[configuration.variant.quantization]
    if not quantization.proven_by(measurements.kernels, device.kind):
        return Outcome.REFUSED, f"{quantization.name} was asked for, no 8-bit product ran"
    least = bound(configuration, device)
    gpu = latency.gpu
    if gpu is not None and least.datasheet and gpu.value < IMPLAUSIBLE * least.latency_ms:
        return Outcome.IMPLAUSIBLE, (
            f"gpu time {gpu.value:.4g} ms is below the bound of "
            f"{least.latency_ms:.4g} ms by datasheet rates"
        )
    if measurements.relative_error > limits.max_error:
        return Outcome.INACCURATE, (
            f"relative error {measurements.relative_error:.2g}{when} is above {limits.max_error:g}"
        )
    if limits.max_memory_gib is not None and memory.peak_mib > limits.max_memory_gib * 1024:
        return Outcome.OUT_OF_MEMORY, (
            f"peak of {memory.peak_mib / 1024:.3g} GiB is above the limit of "
            f"{limits.max_memory_gib:g} GiB"
        )
    if latency.new_length_ms is not None and latency.new_length_ms > limits.max_stall_ms:
        return Outcome.STALLS, (
            f"each new length costs {latency.new_length_ms:.3g} ms, "
            f"above {limits.max_stall_ms:g} ms"
        )
    return Outcome.MEASURED, ""


def outcome_of_error(error: Exception) -> Outcome | None:
    """Tell what a PyTorch error means for its configuration, or None when nothing is known."""
    text = str(error)
    if "can't allocate memory" in text or "not enough memory" in text:
        return Outcome.OUT_OF_MEMORY
    declined = ("No available kernel", "No viable backend", "not supported", "is not implemented")
    if any(words in text for words in declined):
        return Outcome.REFUSED
    return None


def first_line(error: Exception) -> str:
    """Return the first line of a PyTorch error, of lack of memory its first sentences alone."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    if isinstance(error, torch.OutOfMemoryError):
        text = ". ".join(text.split(". ")[:3])  # what was asked for, and what there was
    return text[:500]
