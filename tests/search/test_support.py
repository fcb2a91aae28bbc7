"""The support listing and its check, on a bench that measures nothing."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from objectives.schema.evaluation import Outcome
from search.views.support_listing import (
    axes_markdown,
    check_support,
    core_cells,
    other_cells,
    print_checked,
)
from tests.fake_bench import FakeBench
from variants.axes import AXES
from variants.configuration import Configuration
from variants.device import DEVICE_PROFILES
from variants.support import unsupported_reasons

H100 = DEVICE_PROFILES["h100"].device
DOCS = Path(__file__).resolve().parents[2] / "docs" / "axes.md"


class Declared(FakeBench):
    """A device that is as declared, but for what is named."""

    def __init__(self, runs: str = "", fails: str = "", accepts: bool | None = None) -> None:
        super().__init__()
        self._runs, self._fails, self._accepts = runs, fails, accepts

    def evaluate(self, configuration: Configuration):  # type: ignore[no-untyped-def]
        found = super().evaluate(configuration)
        variant = configuration.variant
        declared = not unsupported_reasons(configuration, self.device())
        if variant.key.startswith(self._runs) if self._runs else False:
            declared = True
        if variant.key.startswith(self._fails) if self._fails else False:
            declared = False
        if declared:
            return found
        return found.model_copy(
            update={"outcome": Outcome.REFUSED, "reason": "no kernel", "measurements": None}
        )

    def accepted_by_pytorch(self, configuration: Configuration) -> bool | None:
        return self._accepts


def checked(bench: FakeBench) -> tuple[bool, str]:
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    tried = check_support(console, bench, {})  # type: ignore[arg-type]
    print_checked(console, tried)
    return not any(one.disagreement for one in tried), shown.getvalue()


def test_every_choice_of_every_axis_has_a_place() -> None:
    cells = (*core_cells(H100, {}), *other_cells(H100, {}))
    places = {name for cell in cells for name in (*cell.row, cell.column)}
    for axis in AXES.values():
        if axis.of_variant:
            assert set(axis.known or ()) <= places
    assert all(cell.supported or cell.refused for cell in cells)


def test_a_device_that_is_as_declared_agrees() -> None:
    agreed, shown = checked(Declared())
    assert agreed
    assert "0 disagree" in shown


def test_what_runs_and_was_declared_not_to_is_told() -> None:
    agreed, shown = checked(Declared(runs="flash/fp32"))
    assert not agreed
    assert "flash fp32 static: it runs, declared not to: backend flash takes bf16" in shown


def test_what_fails_and_was_declared_to_run_is_told() -> None:
    agreed, shown = checked(Declared(fails="cudnn/bf16/fp8_dynamic"))
    assert not agreed
    assert "cudnn bf16 fp8_dynamic static: declared to run, REFUSED: no kernel" in shown


def test_pytorchs_own_answer_counts() -> None:
    agreed, shown = checked(Declared(accepts=False))
    assert not agreed
    assert "PyTorch says that the backend does not take it" in shown


def test_the_published_table_of_choices_is_current() -> None:
    assert DOCS.read_text(encoding="utf-8") == axes_markdown()
