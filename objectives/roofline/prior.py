"""What a configuration can be expected to take, before anything is measured.

The roofline's arithmetic with the overheads that declarations tell of: a score matrix that exists
in memory, a cache that is copied to grow, a launch for every operation. It ranks; it accuses
nobody, and a search corrects it by what it measures.
"""

from __future__ import annotations

from dataclasses import dataclass

from objectives.roofline.bound import peaks_of, token_bytes, weight_elements
from variants.backends import BACKENDS
from variants.caches import CACHES
from variants.configuration import Configuration
from variants.device import Device
from variants.executions import EXECUTIONS
from variants.gqa import grouped_heads
from variants.kv_dtypes import KV_DTYPES
from variants.precisions import PRECISIONS
from variants.quantizations import QUANTIZATIONS
from variants.workload import Workload

EFFICIENCY = 0.6  # of the datasheet's rates, as good kernels reach
# Microseconds of host or device time for each operation of a step.
LAUNCH_US = {"eager": 6.0, "compiled": 4.0, "captured": 2.0}
OPERATIONS = 12  # projections, reshapes, a cache update and a fused attention


@dataclass(frozen=True, slots=True)
class Prediction:
    """Expected latency of a step and peak memory, all layers together."""

    latency_ms: float
    memory_mib: float


def predict(configuration: Configuration, device: Device) -> Prediction:
    """Return what one configuration is expected to take on a device."""
    workload, variant = configuration.workload, configuration.variant
    rates, _ = peaks_of(device)
    width = PRECISIONS[variant.precision].bits / 8
    quantization = QUANTIZATIONS[variant.quantization]
    weights = weight_elements(workload)
    kind = CACHES[variant.cache] if variant.cache is not None else None
    cached = kind is not None and kind.reuses
    rows = 1 if cached else workload.capacity
    keys = workload.capacity
    if kind is not None and kind.windowed:
        keys = min(keys, workload.scores.window or keys)
    tokens = workload.batch * rows
    scores = workload.batch * workload.q_heads * rows * keys
    held = scores * (width + 4) if BACKENDS[variant.backend].holds_scores else 0.0
    repeated = grouped_heads(variant.gqa).copies
    decoded = variant.kv_dtype is not None and KV_DTYPES[variant.kv_dtype].bits is not None

    stored = token_bytes(configuration) * keys
    whole = 2 * workload.batch * workload.kv_heads * workload.head_dim * keys * width
    copied = whole * (workload.q_heads / workload.kv_heads if repeated else 0)
    copied += whole if decoded else 0
    copied += stored / 2 if kind is not None and kind.copies else 0
    seen = _share_seen(workload, rows) if BACKENDS[variant.backend].skips_hidden else 1.0
    weight_bytes = weights * (quantization.weight_bits or 8 * width) / 8
    hidden = tokens * workload.hidden_size * width

    passes = 3 if workload.trains else 1
    tflops = rates.tflops(variant.precision)
    projecting = rates.eight_bit_tflops if quantization.multiplies_quantized else tflops
    pairs = seen * (scores if rows == 1 else scores / 2)
    computing = (2 * tokens * weights / projecting + 4 * pairs * workload.head_dim / tflops) / 1e12
    moving = (weight_bytes + seen * stored + 2 * copied + 4 * hidden + 4 * held) / (
        rates.bandwidth_gb_s * 1e9
    )
    device_ms = passes * max(computing, moving) / EFFICIENCY * 1e3
    execution = EXECUTIONS[variant.execution]
    how = "captured" if execution.captures else "compiled" if execution.compiles else "eager"
    operations = OPERATIONS + (6 if held else 0) + (2 if copied else 0) + (8 if decoded else 0)
    launch_ms = passes * operations * LAUNCH_US[how] / 1e3
    # Neither hides the other altogether.
    latency_ms = workload.layers * (device_ms**2 + launch_ms**2) ** 0.5

    kept = weight_bytes * (2 if workload.trains else 1)
    kept += stored if cached or workload.phase == "prefill" else 0.0
    kept += 4 * hidden if workload.trains else 0.0
    bias = 0.0
    backend = BACKENDS[variant.backend]
    support = backend.support.get(device.kind)
    biased = workload.scores.without(support.computes if support is not None else ())
    if not biased.plain and biased.additive and not backend.compiled:
        heads = workload.q_heads if workload.scores.relative else 1
        bias = rows * keys * heads * width
    passing = 3 * hidden + held * passes + copied + bias + (hidden if execution.captures else 0)
    passing += 0.0 if cached or workload.phase == "prefill" else whole
    return Prediction(latency_ms, (workload.layers * kept + passing) / 2**20)


def _share_seen(workload: Workload, rows: int) -> float:
    """Return which share of the keys up to their own queries see, by the last and a middle one."""
    last = workload.capacity - 1
    positions = [last] if rows == 1 else [last // 2, last]
    scores = workload.scores
    shares = [
        scores.visible_keys(position, position + 1) / (position + 1) for position in positions
    ]
    return sum(shares) / len(shares)
