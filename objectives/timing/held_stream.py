"""GPU time of a step behind a held stream, with the time that the host needs to enqueue it.

A step of a few microseconds is launched slower than it runs, so plain event timing measures
the host. Here the stream is held by a spin until everything is enqueued: flush of the L2
cache, start event, the whole step, end event. What lies between the events then is GPU time
alone. A sample counts only if the hold outlasted the enqueueing.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from objectives.timing.affinity import CoreSelector
from objectives.timing.host_reference import HostReference, RollingMedian

HOLD_MARGIN_MS = 0.15
MAX_HOLD_MS = 200.0  # bounds the spin, whatever the host does
# An idle device lowers its clock; see docs/measuring.md, "the clock of the device".
WARM_SHARE = 0.97  # of the clock that was calibrated
WARM_S = 0.1  # at most, before a step is timed


@dataclass
class Hold:
    """How long to hold the stream for a step, learnt from the host times that it showed."""

    ms: float = 1.0

    def lengthen(self) -> None:
        """Hold longer: the last hold ended before the step was enqueued."""
        self.ms = min(MAX_HOLD_MS, 2 * self.ms + HOLD_MARGIN_MS)

    def let_go(self) -> None:
        """Hold no more: this step cannot be enqueued behind a hold."""
        self.ms = 0.0

    def expect(self, host_ms: float) -> None:
        """Set the hold to what a step that takes `host_ms` to enqueue needs."""
        self.ms = min(MAX_HOLD_MS, 2 * host_ms + HOLD_MARGIN_MS)


class HeldStream:
    """Times work on the current CUDA stream while the stream waits for the host."""

    def __init__(
        self,
        l2_bytes: int,
        cores: CoreSelector | None = None,
        others: Sequence[torch.cuda.Stream] = (),
    ) -> None:
        """Allocate the flush buffer, twice the L2 cache, and calibrate the spin.

        `cores` are those that steps are launched from. Work is timed on the stream that is
        current; `others` may be made current, too.
        """
        self.cores = CoreSelector() if cores is None else cores
        self.host_reference = HostReference(torch.device("cuda"))
        self.recent_reference = RollingMedian()
        self.others = [functools.partial(torch.cuda.stream, one) for one in others]
        self._flush = torch.empty(2 * l2_bytes, dtype=torch.int8, device="cuda")
        self._cycles_per_ms = self._calibrate()

    def _calibrate(self) -> float:
        """Return how many cycles a millisecond has, once the clock has risen."""
        deadline = time.monotonic() + WARM_S
        rate = 0.0
        while time.monotonic() < deadline:
            rate = max(rate, self._spin(10_000_000))
        return rate

    def _spin(self, cycles: int) -> float:
        """Spin, and return how many cycles a millisecond had."""
        start, end = _events()
        start.record()
        torch.cuda._sleep(cycles)
        end.record()
        end.synchronize()
        return cycles / float(start.elapsed_time(end))

    def warm(self) -> None:
        """Keep the device busy until its clock is up, so that no step is timed on a cold one."""
        raise_clock(lambda: self._spin(1_000_000) / self._cycles_per_ms)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keep the device busy for two milliseconds, so that it can be read as it works."""
        torch.cuda._sleep(int(2 * self._cycles_per_ms))
        yield
        torch.cuda.synchronize()

    def sample(self, step: Callable[[], object], hold: Hold) -> tuple[float, float, bool]:
        """Run `step` once. Returns its GPU ms, its host ms, and whether the stream was held.

        A step that synchronises, or enqueues more than the launch queue takes, waits for the
        spin and is timed when the stream is free: not held.
        """
        held, (start, end) = torch.cuda.Event(), _events()
        torch.cuda._sleep(int(hold.ms * self._cycles_per_ms))
        held.record()
        self._flush.zero_()
        start.record()
        before = time.perf_counter_ns()
        step()
        host_ms = (time.perf_counter_ns() - before) / 1e6
        end.record()
        was_held = not held.query()
        end.synchronize()
        return float(start.elapsed_time(end)), host_ms, was_held


def raise_clock(share: Callable[[], float], *, now: Callable[[], float] = time.monotonic) -> None:
    """Call `share`, which spins and returns its clock's share of the usual one, until it is up."""
    deadline = now() + WARM_S
    while share() < WARM_SHARE and now() < deadline:
        pass


def _events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
