"""The least time and memory that a configuration can need: a pure function of data.

Notation: a step multiplies `operations` numbers at the device's peak rate and moves `bytes` at
its bandwidth at least once; the larger of the two times is the bound. Source: Williams, Waterman
and Patterson, Roofline, CACM 52(4), 2009.
"""

from __future__ import annotations

from dataclasses import dataclass

from variants.configuration import Configuration
from variants.device import Device
from variants.precisions import PRECISIONS
from variants.workload import Workload


@dataclass(frozen=True, slots=True)
class Peaks:
    """Datasheet rates of a device, dense, without sparsity."""

    half_tflops: float  # bf16 and fp16
    tf32_tflops: float
    fp32_tflops: float
    bandwidth_gb_s: float


# By the start of the device's name. SXM parts, the fastest of their family, since the bound
# accuses a measurement of being too fast.
DATASHEET = {
    "NVIDIA H200": Peaks(989, 494, 67, 4800),
    "NVIDIA H100": Peaks(989, 494, 67, 3350),
    "NVIDIA A100": Peaks(312, 156, 19.5, 2039),
}
# For ratios alone, never to accuse: orders of magnitude of a device that is not listed.
TYPICAL = {"cuda": Peaks(100, 50, 20, 800), "cpu": Peaks(0.2, 0.2, 0.2, 20)}


@dataclass(frozen=True, slots=True)
class Bound:
    """What a configuration needs at least, on one device."""

    latency_ms: float
    memory_mib: float
    datasheet: bool  # whether the device's own rates are known


def bound(configuration: Configuration, device: Device) -> Bound:
    """Return the least latency and memory of one configuration, all layers together."""
    workload, variant = configuration.workload, configuration.variant
    precision = PRECISIONS[variant.precision]
    peaks = next((p for name, p in DATASHEET.items() if device.name.startswith(name)), None)
    rates = peaks or TYPICAL[device.kind]
    tflops = {"fp32": rates.fp32_tflops, "tf32": rates.tf32_tflops}.get(
        precision.name, rates.half_tflops
    )
    width = precision.bits // 8
    cached = workload.decodes and variant.cache != "none"
    rows = 1 if cached else workload.capacity  # query rows of the last step, or of the prompt
    hidden, tokens = workload.hidden_size, workload.batch * rows
    kv_bytes = 2 * workload.batch * workload.kv_heads * workload.head_dim * width
    weight_bytes = weight_elements(workload) * width
    kv_total = kv_bytes * _visible_keys(workload)
    stream_bytes = 2 * tokens * hidden * width  # the layer's input and output
    operations = 2 * tokens * weight_elements(workload) + (
        4 * workload.batch * workload.q_heads * workload.head_dim * _visible_pairs(workload, rows)
    )
    seconds = max(
        operations / (tflops * 1e12),
        # A decode step reads the cache; without one keys and values may stay on the chip.
        (weight_bytes + stream_bytes + (kv_total if cached else 0)) / (rates.bandwidth_gb_s * 1e9),
    )
    kept = kv_bytes * (0 if workload.decodes and not cached else workload.capacity)
    memory = workload.layers * (weight_bytes + kept) + stream_bytes
    return Bound(seconds * 1e3 * workload.layers, memory / 2**20, peaks is not None)


def weight_elements(workload: Workload) -> int:
    """Return the number of elements of the four projections."""
    heads = 2 * workload.q_heads + 2 * workload.kv_heads
    return heads * workload.head_dim * workload.hidden_size


def _window(workload: Workload) -> int:
    entry, parameter = workload.score_mod_entry
    return parameter if entry.name == "sliding_window" else workload.capacity


def _visible_keys(workload: Workload) -> int:
    """Return how many keys the first timed query sees."""
    return min(workload.seq_len, _window(workload))


def _visible_pairs(workload: Workload, rows: int) -> int:
    """Return the (query, key) pairs that are not masked, of one head and one sequence."""
    if rows == 1:
        return _visible_keys(workload)
    window = min(rows, _window(workload))
    return window * (window + 1) // 2 + (rows - window) * window
