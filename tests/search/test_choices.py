"""What is searched when a model, a preset, a file and options say it together."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.options.choices import gather_choices

MODEL = "llama-3.1-8b"


def test_a_model_is_served_by_prefill_and_decode() -> None:
    found = gather_choices({}, model=MODEL, phases=True)
    assert found["phase"] == ("prefill", "decode")
    assert "phase" not in gather_choices({}, phases=True)
    assert "phase" not in gather_choices({}, model=MODEL)


@pytest.mark.parametrize("phase", ["decode", "train", "train,decode"])
def test_phases_that_are_named_win_over_those_of_a_model(phase: str, tmp_path: Path) -> None:
    expected = tuple(phase.split(","))
    assert gather_choices({"phase": phase}, model=MODEL, phases=True)["phase"] == expected
    space = tmp_path / "space.toml"
    space.write_text(f"[axes]\nphase = {list(expected)}\n")
    assert gather_choices({}, model=MODEL, space=space, phases=True)["phase"] == expected


def test_the_phases_of_a_preset_win_over_those_of_a_model() -> None:
    preset = gather_choices({}, preset="kv-cache")["phase"]
    assert gather_choices({}, preset="kv-cache", model=MODEL, phases=True)["phase"] == preset
