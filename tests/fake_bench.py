"""A bench that measures nothing: its numbers are a function of the configuration's key."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Sequence
from pathlib import Path

from objectives.process.client import ProcessUnavailable
from objectives.roofline.bound import DATASHEET, Peaks
from objectives.schema.comparison import Comparison, Retimed
from objectives.schema.environment import Environment
from objectives.schema.evaluation import (
    Evaluation,
    Latency,
    Measurements,
    Memory,
    Outcome,
    Samples,
)
from objectives.schema.profile import Profile
from variants.configuration import Configuration
from variants.device import DEVICE_PROFILES, Device


def measurements(latency_ms: float, memory_mib: float, spread: float = 0.0) -> Measurements:
    samples = Samples(
        quantile=0.5,
        value=latency_ms,
        low=latency_ms - spread,
        high=latency_ms + spread,
        iqr=spread,
        count=20,
        stopped="precise",
    )
    return Measurements(
        latency=Latency(
            latency_ms=latency_ms,
            low_ms=samples.low,
            high_ms=samples.high,
            bound="gpu",
            gpu=samples,
            held=True,
            host=samples,
            first_step_ms=1.0,
            new_length_ms=None,
        ),
        memory=Memory(
            peak_mib=memory_mib,
            weights_mib=1.0,
            cache_mib=0.0,
            transient_mib=memory_mib - 1.0,
            reserved_mib=memory_mib,
            workspace_mib=32.0,
        ),
        relative_error=1e-3,
        backend_ran="flash",
        kernels=("aten::_scaled_dot_product_flash_attention",),
    )


def share(text: str) -> float:
    """A number in [0, 1) that looks random and is always the same for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


class FakeBench:
    def __init__(
        self,
        fails: dict[str, Outcome] | None = None,
        profile: str = "h100",
        pause_s: float = 0.0,
    ) -> None:
        self.fails = fails or {}  # outcome by backend
        self.calls: list[str] = []
        self.compared: list[list[str]] = []
        self._profile, self._pause_s = profile, pause_s
        self._interrupted = threading.Event()

    def device(self) -> Device:
        return DEVICE_PROFILES[self._profile].device

    def environment(self) -> Environment:
        return Environment(
            device=self.device(),
            driver="580",
            cuda="13.0",
            python="3.12.3",
            platform="Linux x86_64",
            goldilocks="0",
        )

    def evaluate(self, configuration: Configuration) -> Evaluation:
        if self._interrupted.wait(self._pause_s):
            raise ProcessUnavailable("interrupted")
        self.calls.append(configuration.key)
        return self._answer(configuration)

    def _answer(self, configuration: Configuration) -> Evaluation:
        outcome = self.fails.get(configuration.variant.backend, Outcome.MEASURED)
        if outcome is not Outcome.MEASURED:
            return Evaluation(configuration=configuration, outcome=outcome, reason="as planned")
        size = configuration.workload.batch * configuration.workload.seq_len
        return Evaluation(
            configuration=configuration,
            outcome=outcome,
            measurements=measurements(
                size * (1 + share(configuration.key)),
                size * (2 - share(configuration.variant.key)),
            ),
            seconds={"latency": 0.0},
        )

    def peaks(self) -> Peaks | None:
        return DATASHEET["NVIDIA H100"]

    def compare(self, configurations: Sequence[Configuration]) -> Comparison:
        """All in one group, each with 1 % of noise around what `evaluate` says."""
        self.compared.append([configuration.key for configuration in configurations])
        group, missing = [], {}
        for configuration in configurations:
            measured = self._answer(configuration).measurements
            if measured is None:
                missing[configuration.key] = "as planned"
                continue
            rng = random.Random(configuration.key)
            times = tuple(measured.latency.latency_ms * rng.gauss(1, 0.01) for _ in range(40))
            group.append(
                Retimed(configuration=configuration, gpu_ms=times, host_ms=times, held=True)
            )
        return Comparison(groups=(tuple(group),), missing=missing, seconds=0.0)

    def profile(self, configuration: Configuration, folder: Path, prefix: str) -> Profile:
        trace = f"{prefix}trace.json"
        (folder / trace).write_text("{}")
        return Profile(
            configuration=configuration,
            steps=1,
            operators=(),
            kernels=(),
            launches=0,
            device_busy_ms=0.0,
            memory=(),
            allocations=(),
            trace=trace,
            snapshot=None,
        )

    def accepted_by_pytorch(self, configuration: Configuration) -> bool | None:
        return None

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        """There is no process to end."""
