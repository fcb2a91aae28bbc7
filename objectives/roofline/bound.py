"""The least time and memory that a configuration can need: a pure function of data.

Notation: a step multiplies `operations` numbers at the device's peak rate and moves `bytes` at
its bandwidth at least once; the larger of the two times is the bound. Source: Williams, Waterman
and Patterson, Roofline, CACM 52(4), 2009.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from objectives.schema.evaluation import Evaluation, HostReferenceMs, Positive, Roofline
from variants.caches import CACHES
from variants.configuration import Configuration
from variants.device import Device
from variants.kv_dtypes import KV_DTYPES
from variants.precisions import PRECISIONS
from variants.quantizations import QUANTIZATIONS
from variants.score_mods import parse_score_mod
from variants.workload import Workload


@dataclass(frozen=True, slots=True)
class Peaks:
    """A device's peak rates, of dense operations (without structured sparsity)."""

    eight_bit_tflops: Positive  # int8 and float8, whichever is faster
    half_tflops: Positive  # bf16 and fp16
    tf32_tflops: Positive
    fp32_tflops: Positive
    bandwidth_gb_s: Positive
    launch_us: Positive | None = None  # host time to launch an operation; None in a datasheet
    # What the host reference (`objectives.timing.host_reference`) takes at the host's full speed;
    # None on a CPU and in a datasheet.
    yardstick_ms: HostReferenceMs | None = None

    def tflops(self, precision: str) -> float:
        """Return the rate of products at a precision."""
        named = {"fp32": self.fp32_tflops, "tf32": self.tf32_tflops}
        return named.get(precision, self.half_tflops)


# By the start of the device's name. SXM parts, the fastest of their family, since the bound
# accuses a measurement of being too fast.
DATASHEET = {
    "NVIDIA H200": Peaks(1979, 989, 494, 67, 4800),
    "NVIDIA H100": Peaks(1979, 989, 494, 67, 3350),
    "NVIDIA A100": Peaks(624, 312, 156, 19.5, 2039),
}
# For ratios alone, never to accuse: orders of magnitude of a device that is not listed.
TYPICAL = {"cuda": Peaks(200, 100, 50, 20, 800), "cpu": Peaks(0.4, 0.2, 0.2, 0.2, 20)}


@dataclass(frozen=True, slots=True)
class Bound:
    """What a configuration needs at least, on one device."""

    latency_ms: float
    memory_mib: float
    limit: Literal["operations", "bandwidth"]  # what the latency comes from
    datasheet: bool  # whether the rates are the device's own, of its datasheet


def bound(configuration: Configuration, device: Device, measured: Peaks | None = None) -> Bound:
    """Return the least latency and memory of one configuration, all layers together.

    By `measured` rates if they are given, else by those of the device's datasheet.
    """
    workload, variant = configuration.workload, configuration.variant
    rates, known = peaks_of(device) if measured is None else (measured, False)
    precision, quantization = PRECISIONS[variant.precision], QUANTIZATIONS[variant.quantization]
    width = precision.bits / 8
    cached = variant.cache is not None and CACHES[variant.cache].reuses
    rows = 1 if cached else workload.capacity  # query rows of the last step, or of the prompt
    tokens = workload.batch * rows
    weight_bytes = weight_elements(workload) * (quantization.weight_bits or precision.bits) / 8
    stream_bytes = 2 * tokens * workload.hidden_size * width  # the layer's input and output
    tflops = rates.tflops(precision.name)
    projecting = rates.eight_bit_tflops if quantization.multiplies_quantized else tflops
    heads = workload.batch * workload.q_heads * workload.head_dim
    # (query, key) pairs that are not masked, of one head of one sequence
    pairs = _visible_keys(workload) if cached else _pairs_of_prompt(workload.score_mod, rows)
    passes = 3 if workload.trains else 1  # backward needs two products for each of forward's
    computing = (
        2 * tokens * weight_elements(workload) / projecting + 4 * heads * pairs / tflops
    ) / 1e12
    # A decode step reads the cache; without one keys and values may stay on the chip.
    read = token_bytes(configuration) * _visible_keys(workload) if cached else 0
    moving = (weight_bytes + stream_bytes + read) / (rates.bandwidth_gb_s * 1e9)
    memory = workload.layers * (
        weight_bytes * (2 if workload.trains else 1) + _kept(configuration)
    )
    return Bound(
        passes * max(computing, moving) * 1e3 * workload.layers,
        (memory + stream_bytes) / 2**20,
        "operations" if computing > moving else "bandwidth",
        known,
    )


def under_roofline(evaluation: Evaluation, device: Device, peaks: Peaks | None) -> Evaluation:
    """Return the evaluation with its bound and its share of it, where it has measurements.

    By the study's measured `peaks`; a device where they could not be measured is left to its
    datasheet.
    """
    measured = evaluation.measurements
    if measured is None:
        return evaluation
    least = bound(evaluation.configuration, device, peaks)
    time_ms = (measured.latency.gpu or measured.latency.host).value
    roofline = Roofline(
        latency_ms=least.latency_ms,
        memory_mib=least.memory_mib,
        limit=least.limit,
        latency_share=least.latency_ms / time_ms,
        memory_share=least.memory_mib / measured.memory.peak_mib,
        rates="measured" if peaks else "datasheet" if least.datasheet else "typical",
    )
    placed = measured.model_copy(update={"roofline": roofline})
    return evaluation.model_copy(update={"measurements": placed})


def peaks_of(device: Device) -> tuple[Peaks, bool]:
    """Return a device's rates, and whether they are its own."""
    peaks = next((p for name, p in DATASHEET.items() if device.name.startswith(name)), None)
    return peaks or TYPICAL[device.kind], peaks is not None


def token_bytes(configuration: Configuration) -> float:
    """Return the bytes of the keys and values of one token of every sequence, in one layer."""
    workload, variant = configuration.workload, configuration.variant
    precision = PRECISIONS[variant.precision]
    bits = float(workload.head_dim * precision.bits)
    if variant.kv_dtype is not None:
        stored = KV_DTYPES[variant.kv_dtype]
        bits = workload.head_dim * (stored.bits or precision.bits)
        bits += precision.bits if stored.scale_a_token else 0
    return 2 * workload.batch * workload.kv_heads * bits / 8


def _kept(configuration: Configuration) -> float:
    """Return the bytes of keys and values that one layer keeps."""
    workload, cache = configuration.workload, configuration.variant.cache
    if workload.trains or (cache is not None and not CACHES[cache].reuses):
        return 0.0
    tokens = workload.capacity
    if cache is not None and CACHES[cache].windowed:
        tokens = min(tokens, workload.scores.window or tokens)
    return token_bytes(configuration) * tokens


def weight_elements(workload: Workload) -> int:
    """Return the number of elements of the four projections."""
    heads = 2 * workload.q_heads + 2 * workload.kv_heads
    return heads * workload.head_dim * workload.hidden_size


def _visible_keys(workload: Workload) -> int:
    """Return how many keys a new token sees, at least."""
    positions = range(workload.seq_len, workload.capacity)
    return min(workload.scores.visible_keys(position, position + 1) for position in positions)


@functools.lru_cache(maxsize=4096)
def _pairs_of_prompt(score_mod: str, rows: int) -> int:
    scores = parse_score_mod(score_mod)
    if not scores.masks:
        return rows * (rows + 1) // 2
    return sum(scores.visible_keys(position, rows) for position in range(rows))
