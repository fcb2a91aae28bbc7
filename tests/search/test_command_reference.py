"""The reference of the command line, as it is stored and as it would be generated now."""

from __future__ import annotations

from pathlib import Path

import typer

from search.cli import app
from search.command_reference import COMMAND, EXIT_STATUSES, reference_markdown

DOCS = Path(__file__).resolve().parents[2] / "docs" / "reference.md"


def test_the_stored_reference_is_up_to_date() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert text == reference_markdown(), f"docs/reference.md is out of date: {COMMAND}"


def test_every_option_of_every_command_is_in_the_reference() -> None:
    sections = reference_markdown().split("\n## ")[1:]
    texts = {name: text for name, _, text in (section.partition("\n") for section in sections)}
    root = typer.main.get_command(app)
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert all(option in texts[name] for option in parameter.opts)
    assert texts["Exit statuses"].count("\n| ") == 1 + len(EXIT_STATUSES)
