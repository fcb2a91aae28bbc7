"""The profile: known answers of its arithmetic, and its agreement with the trial."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._C._autograd import DeviceType

from objectives.metrics.memory import MIB
from objectives.metrics.profiler import (
    BEFORE,
    AllocationEvent,
    TimeSpan,
    _kernel_times,
    _kernels,
    busy_ns,
    by_operator,
)
from objectives.schema.limits import Limits
from objectives.schema.profile import Profile
from objectives.trial.evaluator import Evaluator
from tests.configurations import configured
from variants.detect import detect_device
from variants.workload import Phase, Workload

PREFILL = Workload(phase=Phase.PREFILL, batch=1, seq_len=256, q_heads=2, head_dim=32)


def test_the_peak_is_made_of_what_operators_hold_then() -> None:
    spans = [TimeSpan(0, 100, "outer"), TimeSpan(10, 50, "inner"), TimeSpan(200, 300, "later")]
    changes = [
        AllocationEvent(5, 1 * MIB),  # outer
        AllocationEvent(20, 4 * MIB),  # inner
        AllocationEvent(30, 2 * MIB),  # inner: 9 MiB with what was there, the peak
        AllocationEvent(40, -4 * MIB),
        AllocationEvent(60, 3 * MIB),  # outer
        AllocationEvent(150, 1 * MIB),  # nobody
        AllocationEvent(160, -2 * MIB),
        AllocationEvent(170, -2 * MIB),  # what was there before
        AllocationEvent(250, 3 * MIB),  # later, at 8
    ]
    rows = by_operator(changes, spans, resident=2 * MIB)
    at_peak = {row.operator: row.at_peak_mib for row in rows}
    assert at_peak == {
        "inner": 6,
        BEFORE: 2,
        "outer": 1,
        "later": 0,
        "(outside of any operator)": 0,
    }
    assert [row.operator for row in rows][:3] == ["inner", BEFORE, "outer"]
    assert {row.operator: (row.calls, row.allocated_mib) for row in rows}["inner"] == (2, 6.0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(-3, 4).filter(bool)), max_size=15))
def test_parts_add_up_to_the_peak(drawn: list[tuple[int, int]]) -> None:
    changes = [AllocationEvent(time, size * MIB) for time, size in sorted(drawn)]
    rows = by_operator(changes, [TimeSpan(2, 5, "a"), TimeSpan(3, 4, "b")], resident=60 * MIB)
    now = peak = 60
    for _, nbytes in sorted(changes):
        now += nbytes // MIB
        peak = max(peak, now)
    assert sum(row.at_peak_mib for row in rows) == peak


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=12))
def test_busy_time_is_what_any_interval_covers(drawn: list[tuple[int, int]]) -> None:
    intervals = [(start, start + length) for start, length in drawn]
    covered = {tick for start, end in intervals for tick in range(start, end)}
    assert busy_ns(intervals) == len(covered)


class Event:
    def __init__(self, name: str, device: DeviceType, start: int, length: int) -> None:
        self._name, self._device, self._start, self._length = name, device, start, length

    def name(self) -> str:
        return self._name

    def device_type(self) -> DeviceType:
        return self._device

    def start_ns(self) -> int:
        return self._start

    def duration_ns(self) -> int:
        return self._length


def test_annotations_and_memory_on_the_devices_time_line_are_no_kernels() -> None:
    cpu, cuda = DeviceType.CPU, DeviceType.CUDA
    events = [
        Event("Torch-Compiled Region", cpu, 0, 90),
        Event("Torch-Compiled Region", cuda, 10, 80),
        Event("[memory]", cuda, 5, 0),
        Event("gemm", cuda, 10, 30),
        Event("gemm", cuda, 50, 30),
        Event("Memset (Device)", cuda, 45, 2),
    ]
    kernels = _kernels(events)
    assert [span.name for span in kernels] == ["gemm", "gemm", "Memset (Device)"]
    rows = _kernel_times(kernels)
    assert [(row.name, row.calls) for row in rows] == [("gemm", 2), ("Memset (Device)", 1)]
    assert sum(row.share for row in rows) == pytest.approx(1)


def profiled(device: str, folder: Path, words: str) -> tuple[Profile, float]:
    evaluator = Evaluator(
        detect_device("cuda" if device == "cuda" else "cpu"), Limits(sampling_s=0.02), seed=0
    )
    of = configured(PREFILL, words)
    peak = evaluator.evaluate(of).peak_memory_mib
    assert peak is not None
    return evaluator.profile(of, folder, "x."), peak


def test_on_cpu_it_names_the_peak_and_writes_a_trace(tmp_path: Path) -> None:
    found, peak = profiled("cpu", tmp_path, "math fp32")
    assert [stage.stage for stage in found.memory] == ["build", "first steps", "steps"]
    assert sum(row.at_peak_mib for row in found.allocations) == pytest.approx(peak)
    assert found.memory[-1].peak_mib == pytest.approx(peak, rel=0.05)
    scores_mib = 2 * 256 * 256 * 4 / MIB
    assert found.allocations[0].at_peak_mib >= scores_mib
    assert {"aten::bmm", "aten::mm"} <= {row.name for row in found.operators}
    assert (found.kernels, found.launches, found.snapshot) == ((), 0, None)
    assert json.loads((tmp_path / found.trace).read_text())["traceEvents"]
    assert Profile.model_validate_json(found.model_dump_json()) == found


@pytest.mark.cuda
@pytest.mark.parametrize("words", ["flash bf16", "math bf16"])
def test_on_cuda_it_names_kernels_and_writes_a_snapshot(tmp_path: Path, words: str) -> None:
    before = torch.cuda.memory_allocated()
    found, peak = profiled("cuda", tmp_path, words)
    assert sum(kernel.share for kernel in found.kernels) == pytest.approx(1, abs=0.05)
    assert 0 < found.device_busy_ms < 100
    assert found.launches >= sum(kernel.calls for kernel in found.kernels)
    assert found.memory[-1].peak_mib == pytest.approx(peak, rel=0.1)
    assert sum(row.at_peak_mib for row in found.allocations) == pytest.approx(peak, rel=0.1)
    assert found.snapshot == "x.memory.pickle"
    assert (tmp_path / "x.memory.pickle").stat().st_size > 0
    assert torch.cuda.memory_allocated() <= before + 200 * MIB  # workspaces and the flush buffer
