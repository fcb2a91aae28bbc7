"""First visits, on steps that compile at every length, or once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from objectives.metrics.steps import new_length_ms, visit_first
from tests.objectives.timing.scripted_steps import Steps


def add_one(tensor: Tensor) -> Tensor:
    return tensor + 1


class Growing(Steps):
    """Steps over tensors that grow, computed by `work`."""

    def __init__(self, work: Callable[[Tensor], Tensor]) -> None:
        super().__init__(4)
        self._work = work

    def step(self, index: int) -> None:
        self._work(torch.ones(8 + index))


@pytest.fixture(autouse=True)
def _forgets() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_it_is_told_which_first_visits_compile() -> None:
    each = visit_first(
        Growing(torch.compile(add_one, backend="eager", dynamic=False)),  # type: ignore[arg-type]
        lambda results: None,
    )
    assert each.compiled == [True] * 4
    assert new_length_ms(each, [0.0] * 4, "cpu") == min(each.walls_ms[1:])
    once = visit_first(
        Growing(torch.compile(add_one, backend="eager", dynamic=True)),  # type: ignore[arg-type]
        lambda results: None,
    )
    assert once.compiled == [True, False, False, False]
    assert new_length_ms(once, [0.0] * 4, "cpu") == 0.0
    plain = visit_first(Growing(add_one), lambda results: None)  # type: ignore[arg-type]
    assert plain.compiled == [False] * 4
    assert len(plain.walls_ms) == 4
