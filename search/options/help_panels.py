"""The groups in which a command's help lists its options, as text for terminals of any width."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

PLAIN = "Options"  # of those that name no panel
WORKLOAD_AXES, VARIANT_AXES = "Workload axes", "Variant axes"
SPACE = "Space"
BUDGET = "Budget"
LIMITS = "Limits"
SEARCHING = "Search"
DEVICES = "Devices"
STORED = "Study"
OUTPUT = "Output"


def panels_of(command: Any, context: Any) -> dict[str, list[tuple[str, str]]]:
    """Return the words and the help of a command's parameters by panel, as they come.

    Arguments, and what is in no panel of its own, stand first. What is hidden is left out. A
    command's type is click's, which typer carries under one name or another: Any.
    """
    panels: dict[str, list[tuple[str, str]]] = {PLAIN: []}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            panel = getattr(parameter, "rich_help_panel", None) or PLAIN
            panels.setdefault(panel, []).append(record)
    return {panel: records for panel, records in panels.items() if records}


class CommandWithPanels(TyperCommand):
    """A command whose help lists options by panel; Typer's own draws boxes, or knows no panels."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each panel; the plain options last, after what is the command's."""
        panels = panels_of(self, ctx)
        plain = panels.pop(PLAIN, [])
        for panel, records in (*panels.items(), (PLAIN, plain)):
            with formatter.section(panel):
                formatter.write_dl(records)
