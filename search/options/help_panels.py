"""The groups in which a command's help lists its options, as text for terminals of any width."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

ARGUMENTS = "Arguments"
PLAIN = "Options"  # of those that name no panel: what is the command's alone
GENERAL = "General"  # of what every command has
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

    What is the command's alone stands first, and what all have last. What is hidden is left out. A
    command's type is click's, which typer carries under one name or another: Any.
    """
    panels: dict[str, list[tuple[str, str]]] = {ARGUMENTS: [], PLAIN: []}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            panels.setdefault(_panel(parameter), []).append(record)
    panels[GENERAL] = panels.pop(GENERAL, [])
    return {panel: records for panel, records in panels.items() if records}


def _panel(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return ARGUMENTS
    if parameter.name == "help":
        return GENERAL
    return getattr(parameter, "rich_help_panel", None) or PLAIN


class CommandWithPanels(TyperCommand):
    """A command whose help lists options by panel; Typer's own draws boxes, or knows no panels."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each panel."""
        for panel, records in panels_of(self, ctx).items():
            with formatter.section(panel):
                formatter.write_dl(records)
