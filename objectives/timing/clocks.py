"""Clocks, temperature and throttle reasons of the GPU, read around what is timed.

What is timed while the device slows itself down to save itself tells nothing about the
configuration: such samples are discarded and taken again after a pause, a bounded number of
times. After nvbench, which does so by the clock alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import pynvml

from objectives.schema.evaluation import Conditions

# Limits that a device sets itself because something is wrong. A power cap that is reached is not
# one of them: a heavy kernel always runs there, and that is its time.
_PROTECTIVE = {
    pynvml.nvmlClocksThrottleReasonHwSlowdown: "hw_slowdown",
    pynvml.nvmlClocksThrottleReasonSwThermalSlowdown: "sw_thermal_slowdown",
    pynvml.nvmlClocksThrottleReasonHwThermalSlowdown: "hw_thermal_slowdown",
    pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown: "hw_power_brake",
}
_NOTED = {
    pynvml.nvmlClocksThrottleReasonSwPowerCap: "sw_power_cap",
    pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting: "application_clocks",
    pynvml.nvmlClocksThrottleReasonSyncBoost: "sync_boost",
}
# Of the clock that was usual when the process began, which may be locked. Below it a device
# throttles, whatever it says: nvbench's threshold.
LOWEST_SHARE = 0.75
MAX_DISCARDED = 8  # bursts of one trial
PAUSE_S, MAX_PAUSE_S = 0.05, 0.5


class Reading(NamedTuple):
    """Clock, temperature and throttle reasons of a GPU at one moment, by NVML."""

    sm_mhz: int
    temperature_c: int
    limits: int  # NVML's bits: why the clock is not higher

    def throttling(self, usual_mhz: int) -> tuple[str, ...]:
        """Return the reasons to discard what was timed now; empty when there are none."""
        names = [name for bit, name in _PROTECTIVE.items() if self.limits & bit]
        power_capped = self.limits & pynvml.nvmlClocksThrottleReasonSwPowerCap
        if not names and not power_capped and self.sm_mhz < LOWEST_SHARE * usual_mhz:
            names.append(f"{self.sm_mhz} MHz where {usual_mhz} are usual")
        return tuple(names)

    @property
    def named_limits(self) -> tuple[str, ...]:
        """All limits in force that are worth noting."""
        known = _PROTECTIVE | _NOTED
        return tuple(name for bit, name in known.items() if self.limits & bit)


class Clocks(Protocol):
    """Reads the clocks of one GPU."""

    def read(self) -> Reading:
        """Return the device's state now.

        Raises:
            ClocksUnreadError: It cannot be read.
        """


class ClocksUnreadError(RuntimeError):
    """NVML is missing or does not know the device; the message says which."""


class NvmlClocks:
    """Reads the GPU of a UUID through NVML, which creates no CUDA context."""

    def __init__(self, uuid: str) -> None:
        """Find the device: NVML and CUDA number devices differently.

        Raises:
            ClocksUnreadError: NVML is missing or does not know the device.
        """
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            self.read()
        except pynvml.NVMLError as error:
            raise ClocksUnreadError(f"NVML: {error}") from None

    def read(self) -> Reading:
        try:
            return Reading(
                pynvml.nvmlDeviceGetClockInfo(self._handle, pynvml.NVML_CLOCK_SM),
                pynvml.nvmlDeviceGetTemperature(self._handle, pynvml.NVML_TEMPERATURE_GPU),
                pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle),
            )
        except pynvml.NVMLError as error:
            raise ClocksUnreadError(f"NVML: {error}") from None


class ThrottleMonitor:
    """Tells whether a GPU throttled while samples were taken, over one trial.

    A `SampleMonitor`: after a burst that does not count it pauses, so that the device cools down.
    """

    def __init__(
        self,
        clocks: Clocks,
        busy: Callable[[], AbstractContextManager[None]],
        *,
        usual_mhz: int,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Read `clocks` inside of `busy()`, which keeps the device from looking idle."""
        self._clocks, self._busy, self._sleep = clocks, busy, sleep
        self._usual_mhz = usual_mhz
        self._readings: list[Reading] = []
        self._pause_s = PAUSE_S
        self._discarded = 0
        self._unread = ""
        self.reason = ""

    @property
    def gives_up(self) -> bool:
        """Whether enough was discarded."""
        return self._discarded >= MAX_DISCARDED

    def clean(self) -> bool:
        """Tell whether what was sampled since the last call counts. If not, pause."""
        reading = self._read()
        reasons = () if reading is None else reading.throttling(self._usual_mhz)
        if reading is None or not reasons:
            return True
        self._discarded += 1
        self.reason = (
            f"the device throttled ({', '.join(reasons)}, {reading.temperature_c} °C) in "
            f"{self._discarded} bursts of samples"
        )
        self._sleep(self._pause_s)
        self._pause_s = min(MAX_PAUSE_S, 1.5 * self._pause_s)
        return False

    def _read(self) -> Reading | None:
        if self._unread:
            return None
        try:
            with self._busy():
                reading = self._clocks.read()
        except ClocksUnreadError as error:
            self._unread = str(error)
            return None
        self._readings.append(reading)
        return reading

    def conditions(self) -> Conditions:
        """Return what was read in all."""
        mhz = [reading.sm_mhz for reading in self._readings]
        limits = [name for reading in self._readings for name in reading.named_limits]
        return Conditions(
            sm_mhz=(min(mhz), max(mhz)) if mhz else None,
            temperature_c=max((r.temperature_c for r in self._readings), default=None),
            limits=tuple(dict.fromkeys(limits)),
            discarded=self._discarded,
            unread=self._unread,
        )
