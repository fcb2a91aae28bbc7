"""The trial: everything that is measured of one configuration, in the measuring process.

Order matters. The reference is computed before anything is built, so that it cannot cause an
out-of-memory of the configuration. The baseline is read before the build. Every step is visited
once (compilation, cuDNN plans) before memory is weighed, and memory is weighed in a pass of its
own, before anything is timed. What was timed last is checked, too: a kernel that switches after
some calls is right at first only.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from objectives.metrics.accuracy import References, TimedOutputs, largest_error
from objectives.metrics.kernels import kernels_of_step
from objectives.metrics.memory import Baseline, cuda_baseline, measure_memory, settle
from objectives.metrics.profiler import profile_configuration
from objectives.metrics.steps import (
    FirstVisits,
    new_length_ms,
    run_steps_cold,
    run_steps_warm,
    visit_first,
)
from objectives.precompile.pause import PausedProcesses
from objectives.process.placement import cores_near
from objectives.roofline.bound import Peaks
from objectives.roofline.peaks import measure_peaks
from objectives.schema.comparison import Comparison
from objectives.schema.evaluation import Conditions, Evaluation, Measurements, Outcome
from objectives.schema.limits import Limits
from objectives.schema.profile import Profile
from objectives.timing.affinity import CoreSelector
from objectives.timing.clocks import Clocks, ClocksUnreadError, NvmlClocks, ThrottleMonitor
from objectives.timing.compare import RECOMPILE_LIMIT, compare, prepare_run
from objectives.timing.held_stream import HeldStream
from objectives.timing.latency import measure_cuda, measure_latency
from objectives.timing.sampling import NoMonitor, Throttled
from objectives.timing.streams import fast_streams
from objectives.trial.outcomes import first_line, outcome_of, outcome_of_error
from objectives.trial.stalls import NewLengthCosts, at_other_lengths
from variants.backends import backend_that_ran
from variants.configuration import Configuration
from variants.device import Device
from variants.layer.graph import capture_stream
from variants.layer.run import Run
from variants.precisions import settle_matmul_precision
from variants.workload import Workload

# The host's full speed is what the host reference takes beside the steps of this configuration.
BESIDE = Configuration.of(
    Workload(batch=1, seq_len=512, q_heads=16),
    {"backend": "math", "precision": "fp32", "cache": "static"},
)
REFERENCE_TRIALS = 5
LONG_COLLECTION_S = 0.02  # of garbage: longer, and it visited much that stays
T = TypeVar("T")


class _Found(NamedTuple):
    """What a trial measured."""

    measurements: Measurements
    new_length_ms: float | None  # what new lengths cost in this trial, believed or not
    grows: bool  # shapes differ between steps
    when: str = ""  # the error was taken, where that is worth a word


class Evaluator:
    """Measures configurations one after another on one device."""

    def __init__(
        self,
        device: Device,
        limits: Limits,
        seed: int,
        on_stage: Callable[[str], None] = lambda stage: None,
    ) -> None:
        """Warm the device and the libraries whose first use would fall on the first trial."""
        self.device, self.limits, self.seed = device, limits, seed
        self._on_stage = on_stage
        self._seconds: dict[str, float] = {}
        self._torch_device = torch.device(device.kind)
        self._references = References(self._torch_device, seed)
        self._costs = NewLengthCosts()
        settle_matmul_precision()
        self.stream: HeldStream | None = None
        self._workspace_bytes: int | None = None
        self._clocks: Clocks | None = None
        self._usual_mhz, self._unread = 0, ""
        if device.kind == "cuda":
            first, *others = fast_streams()
            torch.cuda.set_stream(first)  # of this thread: whatever a trial does
            before = torch.cuda.memory_allocated()
            _allocate_workspaces(first, capture_stream())
            self._workspace_bytes = torch.cuda.memory_allocated() - before
            _allocate_workspaces(*others)
            gpu = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
            self.stream = HeldStream(device.l2_bytes, CoreSelector(cores_near(gpu)), others)
            self._find_clocks(self.stream, gpu)
        self._order = random.Random(seed)  # of configurations that are timed in turns
        gc.freeze()  # what exists now stays: a collection between trials need not visit it

    def _find_clocks(self, stream: HeldStream, gpu: str) -> None:
        """Find what reads the device, and the clock that is usual for it."""
        try:
            self._clocks = NvmlClocks(gpu)
            with stream.busy():
                self._usual_mhz = self._clocks.read().sm_mhz
        except ClocksUnreadError as error:
            self._clocks, self._unread = None, str(error)

    @property
    def cores(self) -> CoreSelector | None:
        """Where the host's part of a step is timed; None on a CPU, which is all timed."""
        return None if self.stream is None else self.stream.cores

    def monitor(self) -> ThrottleMonitor | NoMonitor:
        """Return what tells, over one trial, whether samples count."""
        if self.stream is None or self._clocks is None:
            return NoMonitor()
        return ThrottleMonitor(self._clocks, self.stream.busy, usual_mhz=self._usual_mhz)

    def _conditions(self, monitor: ThrottleMonitor | NoMonitor) -> Conditions | None:
        if self.stream is None:
            return None
        if isinstance(monitor, ThrottleMonitor):
            return monitor.conditions()
        return Conditions(sm_mhz=None, temperature_c=None, unread=self._unread)

    def evaluate(
        self, configuration: Configuration, paused: PausedProcesses | None = None
    ) -> Evaluation:
        """Measure one configuration. Processes of `paused` stand still wherever time counts.

        What PyTorch declines and what does not fit in memory are outcomes. Any other exception
        is the caller's to record: it may have left the device unusable.
        """
        self._seconds = {}
        paused = paused or PausedProcesses()
        found = self._unless_it_fails(lambda: self._measure(configuration, paused))
        self._free_trial(configuration)
        measurements: Measurements | None = None
        if isinstance(found, _Found):
            found = self._without_false_stall(configuration, found, paused)
            measurements = found.measurements
            outcome, reason = outcome_of(
                configuration, measurements, self.limits, self.device, found.when
            )
        else:
            outcome, reason = found
        return Evaluation(
            configuration=configuration,
            outcome=outcome,
            reason=reason,
            measurements=measurements,
            seconds=dict(self._seconds),
        )

    def _unless_it_fails(self, work: Callable[[], T]) -> T | tuple[Outcome, str]:
        """Do what is said of `evaluate`, and return the outcome of an error that has one."""
        try:
            return work()
        except torch.OutOfMemoryError as error:
            return Outcome.OUT_OF_MEMORY, first_line(error)
        except Throttled as error:
            return Outcome.THROTTLED, str(error)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            known = outcome_of_error(error)
            if known is None:
                raise
            return known, first_line(error)

    def _free_trial(self, configuration: Configuration) -> None:
        # Outside the handlers: a traceback holds the tensors of its frames.
        with self._stage("free"):
            self.free(compiled=configuration.variant.compiles)

    def compare(self, configurations: Sequence[Configuration]) -> Comparison:
        """Time configurations in turns, the first against all others."""
        if any(configuration.variant.compiles for configuration in configurations):
            torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
        self._on_stage("compare")
        try:
            return compare(
                configurations,
                lambda c: prepare_run(c, self._torch_device, self.seed, self.stream),
                lambda error: first_line(error) if outcome_of_error(error) is not None else None,
                lambda: self.free(compiled=False),
                budget_s=self.limits.sampling_s,
                rng=self._order,
                monitor=self.monitor,
                cores=self.cores,
            )
        finally:
            self.free(compiled=any(c.variant.compiles for c in configurations))

    def profile(self, configuration: Configuration, folder: Path, prefix: str) -> Profile:
        """Profile one configuration and leave its files in `folder`, named after `prefix`."""
        self._on_stage("profile")
        try:
            return profile_configuration(
                configuration, self._torch_device, self.seed, folder, prefix
            )
        finally:
            self.free(compiled=configuration.variant.compiles)

    def peaks(self) -> Peaks:
        """Measure what the device reaches at its best, and how fast its host is.

        Raises:
            torch.OutOfMemoryError: Something else fills the device.
        """
        try:
            measured = measure_peaks(self._torch_device)
            if self.stream is None:
                return measured
            return replace(measured, yardstick_ms=self._least_reference_ms(self.stream))
        finally:
            self.free(compiled=False)

    def _least_reference_ms(self, stream: HeldStream) -> float | None:
        """Return the least of what the host reference takes beside the steps of some trials.

        Beside steps, which leave other things in the caches, as in any trial.
        """
        run = Run(BESIDE, self._torch_device, self.seed)
        run_steps_cold(run, lambda results: None)
        trials = [
            measure_cuda(run, stream, budget_s=self.limits.sampling_s, monitor=NoMonitor())
            for _ in range(REFERENCE_TRIALS)
        ]
        taken = [timed.reference_ms for timed in trials if timed.reference_ms is not None]
        return min(taken, default=None)

    def _measure(self, configuration: Configuration, paused: PausedProcesses) -> _Found:
        with self._stage("check"):
            reference = self._references.of(configuration.workload)
        with self._stage("build"):
            baseline = cuda_baseline() if self.stream is not None else None
            run = Run(configuration, self._torch_device, self.seed)
        with self._stage("first step"), paused:
            kept: dict[str, list[Tensor]] = {}
            first = visit_first(run, lambda results: _keep(kept, results))
        with self._stage("check"):
            results = {name: torch.cat(steps, dim=1) for name, steps in kept.items()}
            error = largest_error(results, reference)
            kept.clear()
            results.clear()
        outputs = TimedOutputs(run)
        with paused:
            found = self._numbers(run, baseline, first, error, outputs)
        with self._stage("second check"):
            timed_error = outputs.error(reference, self.seed)
        if error <= self.limits.max_error < timed_error:
            update = {"relative_error": timed_error}
            return found._replace(
                measurements=found.measurements.model_copy(update=update),
                when=f" once it was timed ({error:.2g} in its first steps)",
            )
        return found

    def _numbers(
        self,
        run: Run,
        baseline: Baseline | None,
        first: FirstVisits,
        error: float,
        outputs: TimedOutputs,
    ) -> _Found:
        """Weigh and time a run that was visited once; what it returned last is in `outputs`."""
        configuration = run.configuration
        with self._stage("memory"):
            later = run_steps_warm(run)
            memory = measure_memory(run, baseline, self._workspace_bytes)
        with self._stage("kernels"):
            kernels = kernels_of_step(run)
            ran = backend_that_ran(kernels, self.device.kind, configuration.variant.backend)
        cost = new_length_ms(first, later, self.device.kind)
        with self._stage("latency"):
            monitor = self.monitor()
            latency = measure_latency(
                run,
                self.stream,
                first_step_ms=first.walls_ms[0],
                new_length=self._costs.of(configuration, ran, run.layer.grows, cost),
                budget_s=self.limits.sampling_s,
                monitor=monitor,
                outputs=outputs,
            )
        measurements = Measurements(
            latency=latency,
            memory=memory,
            relative_error=error,
            backend_ran=ran,
            kernels=kernels,
            conditions=self._conditions(monitor),
        )
        return _Found(measurements, cost, run.layer.grows)

    def _without_false_stall(
        self, configuration: Configuration, found: _Found, paused: PausedProcesses
    ) -> _Found:
        """Return what was found, with the cost of new lengths that repeats at other lengths.

        Where other lengths cannot be run, as there is no room for them, the first look stands.
        """
        cost, ran = found.new_length_ms, found.measurements.backend_ran
        if cost is None or cost <= self.limits.max_stall_ms:
            return found
        elsewhere = at_other_lengths(configuration)
        with self._stage("second look"), paused:
            again = self._unless_it_fails(lambda: self._new_length_ms(elsewhere))
        self._free_trial(configuration)
        if isinstance(again, float):
            cost = min(cost, again)
        if cost > self.limits.max_stall_ms:
            for each in (configuration, elsewhere):
                self._costs.learn(each, ran, found.grows, cost)
        believed = self._costs.of(configuration, ran, found.grows, cost)
        latency = found.measurements.latency.model_copy(update={"new_length_ms": believed})
        measurements = found.measurements.model_copy(update={"latency": latency})
        return found._replace(measurements=measurements)

    def _new_length_ms(self, configuration: Configuration) -> float | None:
        """Build a configuration for nothing but what its new lengths cost."""
        run = Run(configuration, self._torch_device, self.seed)
        first = visit_first(run, lambda results: None)
        return new_length_ms(first, run_steps_warm(run), self.device.kind)

    def free(self, *, compiled: bool) -> None:
        """Leave nothing of a trial behind: no graph, no tensor, no cached segment."""
        if compiled:
            # Past a few graphs of one function, PyTorch refuses to compile more.
            torch._dynamo.reset()
        before = time.perf_counter()
        gc.collect()
        if time.perf_counter() - before > LONG_COLLECTION_S:
            gc.freeze()  # modules that arrived with their first use, as a compiler's, and stay
        settle()

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self._on_stage(name)
        before = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - before


def _keep(kept: dict[str, list[Tensor]], results: Mapping[str, Tensor]) -> None:
    for name, tensor in results.items():
        kept.setdefault(name, []).append(tensor.detach().cpu())


def _allocate_workspaces(*streams: torch.cuda.Stream) -> None:
    """Make cuBLAS allocate its workspaces now, so that they are in every baseline.

    This thread's for each stream. Autograd's thread has some of its own, once it works.
    """
    for stream in streams:
        with torch.cuda.stream(stream):
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                square = torch.ones(256, 256, dtype=dtype, device="cuda")
                torch.nn.functional.linear(square, square)
                torch.bmm(square[None], square[None])
            if torch.cuda.get_device_capability() >= (8, 9):
                one = torch.ones((), device="cuda")
                eight = one.expand(256, 256).to(torch.float8_e4m3fn)
                torch._scaled_mm(eight, eight.t(), one, one, out_dtype=torch.bfloat16)
    torch.cuda.synchronize()
    settle()
