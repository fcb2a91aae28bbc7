"""The error of what was timed last, on steps that are made up."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import objectives.metrics.accuracy as accuracy_module
from objectives.metrics.accuracy import TimedOutputs
from objectives.timing.passes import ROUND, HeldPasses
from tests.objectives.timing.scripted_steps import CapturedSteps, Steps

BATCH, HIDDEN = 3, 5


class Outputs(Steps):
    """Steps that return `right`, each time into the same buffer, as a graph does.

    From the call `wrong_from` on, counted over all steps, they return twice that.
    """

    def __init__(self, steps: int, wrong_from: int = 10**6, rows: int = 1) -> None:
        super().__init__(steps)
        self.right = torch.randn(BATCH, steps * rows, HIDDEN, generator=torch.manual_seed(0))
        self._rows, self._buffer = rows, torch.empty(BATCH, rows, HIDDEN)
        self._calls, self._wrong_from = 0, wrong_from

    def step(self, index: int) -> Tensor:  # type: ignore[override]
        right = self.right[:, index * self._rows : (index + 1) * self._rows]
        self._buffer.copy_(right if self._calls < self._wrong_from else 2 * right)
        self._calls += 1
        return self._buffer

    def results(self, out: object) -> dict[str, Tensor]:
        assert isinstance(out, Tensor)
        return {"out": out}

    def timed(self, passes: int) -> TimedOutputs:
        outputs = TimedOutputs(self)  # type: ignore[arg-type]
        for _ in range(passes):
            for index in range(self.steps):
                outputs.step(index)
                outputs.keep(index)
        return outputs


@pytest.mark.parametrize("steps", [1, 4])
def test_what_was_timed_last_counts(steps: int) -> None:
    right = Outputs(steps)
    assert right.timed(2).error({"out": right.right}, 0) == 0
    # Right in the first two passes, and wrong in the third.
    wrong = Outputs(steps, wrong_from=2 * steps)
    assert wrong.timed(2).error({"out": wrong.right}, 0) == 0
    wrong = Outputs(steps, wrong_from=2 * steps)
    assert wrong.timed(3).error({"out": wrong.right}, 0) == pytest.approx(1.0)


def test_one_wrong_step_of_a_pass_counts() -> None:
    steps = Outputs(4, wrong_from=2 * 4 - 1)
    error = steps.timed(2).error({"out": steps.right}, 0)
    share = steps.right[:, 3].norm() / steps.right.norm()
    assert error == pytest.approx(float(share))


def test_of_large_results_rows_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy_module, "CHECKED_ELEMENTS", 20 * HIDDEN)
    steps = Outputs(1, rows=100)
    looked_at: list[int] = []
    real = accuracy_module.relative_error

    def relative_error(out: Tensor, reference: Tensor) -> float:
        looked_at.append(reference.shape[1])
        return real(out, reference)

    monkeypatch.setattr(accuracy_module, "relative_error", relative_error)
    assert steps.timed(1).error({"out": steps.right}, 0) == 0
    wrong = steps.right.clone()
    wrong[:, ::2] *= 2
    assert steps.timed(1).error({"out": wrong}, 0) > 0.1
    assert looked_at == [20, 20]


def test_a_nan_is_an_infinite_error_and_another_shape_none() -> None:
    steps = Outputs(2)
    outputs = steps.timed(1)
    steps.right[0, 1, 0] = float("nan")
    assert steps.timed(1).error({"out": torch.ones_like(steps.right)}, 0) == float("inf")
    with pytest.raises(ValueError, match=r"out must have shape \(3, 1, 6\), got \(3, 1, 5\)"):
        outputs.error({"out": torch.ones(BATCH, 2, HIDDEN + 1)}, 0)


def test_steps_that_were_never_timed_cannot_be_checked() -> None:
    outputs = TimedOutputs(Outputs(2))  # type: ignore[arg-type]
    outputs.step(0)
    outputs.keep(0)
    with pytest.raises(ValueError, match="1 of 2 steps were timed"):
        outputs.error({"out": torch.ones(BATCH, 2, HIDDEN)}, 0)


def test_captured_and_moved_steps_are_checked_as_the_last_pass_left_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = CapturedSteps(4, monkeypatch)
    seen: list[tuple[int, int]] = []  # a step, and how often it was captured again until then

    def step(index: int) -> Tensor:
        CapturedSteps.step(steps, index)
        seen.append((index, len(steps.places)))
        return torch.full((1, 1, 1), float(len(seen)))

    monkeypatch.setattr(steps, "step", step)
    monkeypatch.setattr(steps, "results", lambda out: {"out": out})
    outputs = TimedOutputs(steps)  # type: ignore[arg-type]
    passes = HeldPasses(steps, steps.stream, None, outputs)  # type: ignore[arg-type]
    for _ in range(2 * ROUND):
        passes()
    assert steps.places
    last = torch.tensor([[[float(len(seen) - 3 + index)] for index in range(4)]])
    assert outputs.error({"out": last}, 0) == 0
    assert passes.held
