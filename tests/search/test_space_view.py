"""The table of a space names what is searched, and nothing that no backend of it has."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from search.views.verdict import print_space
from studies.space.defaults import DEFAULT_AXES
from studies.space.space import fill_defaults, survey
from variants.device import DEVICE_PROFILES


@pytest.mark.parametrize(("backends", "there"), [(("flash",), False), (("flash", "flex"), True)])
def test_axes_of_other_backends_are_left_out(backends: tuple[str, ...], there: bool) -> None:
    given = {"backend": backends, "batch": (1,), "seq_len": (512,), "score_mod": ("none",)}
    found = survey(fill_defaults(given, DEFAULT_AXES["cuda"]), DEVICE_PROFILES["h100"].device)
    console = Console(file=io.StringIO(), width=120)
    print_space(console, found, all_reasons=False)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("tiles" in shown) is there
    assert " over 1 workload: " in shown
