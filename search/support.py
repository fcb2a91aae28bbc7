"""The support listing: what a device runs, as a table, and in words why not the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from studies.defaults import DEFAULT_AXES
from studies.space import fill_defaults
from variants.axes import AXES, Choice
from variants.configuration import Configuration
from variants.device import Device
from variants.score_mods import SCORE_MODS
from variants.support import unsupported_reasons


def print_support(
    console: Console, device: Device, given: Mapping[str, tuple[Choice, ...]]
) -> None:
    """Print one row for each backend and precision, one column for each score_mod."""
    mods = tuple(entry.canonical() for entry in SCORE_MODS.values())
    base: dict[str, tuple[Choice, ...]] = {
        name: choices[:1] for name, choices in DEFAULT_AXES[device.kind].items()
    }
    decisions: dict[str, tuple[Choice, ...]] = {
        name: axis.known or () for name, axis in AXES.items() if axis.of_variant
    }
    space = fill_defaults(given, {**base, "score_mod": mods, **decisions})
    why: Counter[str] = Counter()
    runs: dict[tuple[str, str], dict[str, bool]] = {}
    for workload in space.workloads():
        for variant in space.variants(workload):
            reasons = unsupported_reasons(
                Configuration(workload=workload, variant=variant), device
            )
            cell = runs.setdefault((variant.backend, variant.precision), {})
            cell[workload.score_mod] = cell.get(workload.score_mod, False) or not reasons
            why.update(reasons[:1])
    table = Table(title=f"support on {device.name}", title_justify="left")
    table.add_column("backend")
    table.add_column("precision")
    for mod in space.axes["score_mod"]:
        table.add_column(str(mod), justify="center")
    last = None
    for (backend, precision), cell in runs.items():
        if last not in (None, backend):
            table.add_section()
        shown = backend if backend != last else ""
        marks = ["yes" if cell[str(mod)] else "–" for mod in space.axes["score_mod"]]
        table.add_row(shown, precision, *marks)
        last = backend
    console.print(table)
    for reason, count in why.most_common():
        console.print(f"{count:>5}  {reason}", highlight=False)
