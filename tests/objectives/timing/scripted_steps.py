"""Steps, and a stream that times them, in the place of a device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace

import pytest
import torch

from objectives.timing.held_stream import Hold
from objectives.timing.host_reference import RollingMedian
from objectives.timing.passes import StepTime
from tests.configurations import configured
from variants.workload import Workload


class OneCore:
    """CoreSelector, as a context, that are entered and left."""

    inside, settled, left = False, 0, 0

    def __enter__(self) -> OneCore:
        self.inside = True
        return self

    def settle(self) -> None:
        assert self.inside
        self.settled += 1

    def __exit__(self, *error: object) -> None:
        self.inside, self.left = False, self.left + 1


class ScriptedStream:
    """Answers how long a step took and whether it was held, by how long the hold was."""

    def __init__(self, needs_ms: float) -> None:
        self.needs_ms = needs_ms
        self.holds: list[float] = []
        self.cores, self.recent_reference = OneCore(), RollingMedian()
        self.others: list[Callable[[], AbstractContextManager[object]]] = []
        self.host_reference: Callable[[], float] = lambda: 0.3

    def sample(self, step: Callable[[], object], hold: Hold) -> tuple[float, float, bool]:
        self.holds.append(hold.ms)
        step()
        return 0.05, self.needs_ms, hold.ms > self.needs_ms

    def warm(self) -> None:
        pass


class Steps:
    def __init__(self, steps: int = 3) -> None:
        self.steps = steps
        self.layer = SimpleNamespace(
            device=torch.device("cpu"), execution=SimpleNamespace(captures=False)
        )
        self.moves = True
        self.places: list[float] = []
        workload = Workload(batch=1, seq_len=64, layers=2)
        self.configuration = configured(workload, "math fp32")

    def restart(self) -> None:
        pass

    def move(self, share: float) -> bool:
        self.places.append(share)
        return bool(self.layer.execution.captures)

    def step(self, index: int) -> None:
        pass

    def results(self, out: object) -> dict[str, torch.Tensor]:
        return {}


class CapturedSteps(Steps):
    """Steps that can be captured again, on a host that is slower behind that.

    A step that was just captured takes 0.04 ms on the GPU, and 0.06 on the host, the one behind it
    0.05 and 0.03, all others 0.05 and 0.02. There is no room for more than some captures.
    """

    def __init__(self, steps: int, monkeypatch: pytest.MonkeyPatch, *, room: int = 10**6) -> None:
        super().__init__(steps)
        self.layer.execution.captures = True
        self.stream = ScriptedStream(0.02)
        monkeypatch.setattr(self.stream, "sample", self.sample)
        self.before, self.index, self._room, self._since = 0, 0, room, 9
        self.captured: list[int] = []  # indices

    def restart(self) -> None:
        self.before = len(self.places)

    def move(self, share: float) -> bool:
        if len(self.places) == self._room:
            raise torch.OutOfMemoryError
        self._since = 0
        return super().move(share)

    def step(self, index: int) -> None:
        self.index = index
        if self._since == 0:
            self.captured.append(index)

    def sample(self, step: Callable[[], object], hold: Hold) -> tuple[float, float, bool]:
        step()
        since, self._since = self._since, self._since + 1
        return 0.04 if since == 0 else 0.05, (0.06, 0.03, 0.02)[min(since, 2)], True


def as_passes(*passes: list[float], host_ms: float = 0.1) -> list[StepTime]:
    return [
        StepTime(ms, host_ms, of_pass=number, index=index)
        for number, one in enumerate(passes)
        for index, ms in enumerate(one)
    ]


KINDS = [0.7361, 0.6876, 0.7352, 0.6875, 0.7361, 0.6855, 0.7365, 0.5169]  # as of an H200
