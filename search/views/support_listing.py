"""The support listing: what a device runs, as tables, and in words why not the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from objectives.schema.evaluation import Outcome
from objectives.trial.bench import DeviceBench
from studies.results.labels import variant_label, workload_label
from studies.space.defaults import DEFAULT_AXES
from studies.space.space import SearchSpace, fill_defaults
from variants.axes import AXES, VARIANT_AXES, Choice
from variants.configuration import Configuration
from variants.device import Device, DeviceKind
from variants.score_mods import SCORE_MODS, parse_score_mod
from variants.support import unsupported_reasons
from variants.workload import Workload

# What the first table shows together; of the other axes, the second shows one choice at a time.
_CORE = ("backend", "precision")


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a support table, and the configurations that it stands for."""

    row: tuple[str, str]
    column: str
    supported: tuple[Configuration, ...]
    refused: tuple[tuple[Configuration, tuple[str, ...]], ...]  # with their reasons


def core_cells(device: Device, given: Mapping[str, tuple[Choice, ...]]) -> list[Cell]:
    """Return a cell for each backend and precision by each score_mod.

    Raises:
        SpaceError: What is given is no workload.
    """
    space = _space(device.kind, given)
    return [
        _cell((str(backend), str(precision)), str(mod), device, space, chosen)
        for backend in space.axes["backend"]
        for precision in space.axes["precision"]
        for mod in space.axes["score_mod"]
        for chosen in [{"backend": backend, "precision": precision, "score_mod": mod}]
    ]


def other_cells(device: Device, given: Mapping[str, tuple[Choice, ...]]) -> list[Cell]:
    """Return a cell for each choice of the other axes by each backend, whatever the rest."""
    space = _space(device.kind, given)
    return [
        _cell((axis, str(choice)), str(backend), device, space, {"backend": backend, axis: choice})
        for axis, declared in VARIANT_AXES.items()
        if axis not in _CORE
        for choice in space.axes[axis]
        for backend in space.axes["backend"]
        if not declared.backends or backend in declared.backends
    ]


def _space(kind: DeviceKind, given: Mapping[str, tuple[Choice, ...]]) -> SearchSpace:
    first = {name: choices[:1] for name, choices in DEFAULT_AXES[kind].items()}
    shortest = min(int(length) for length in given.get("seq_len", first["seq_len"]))
    mods = [parse_score_mod(name) for name in SCORE_MODS]
    fitting = tuple(mod.canonical for mod in mods if mod.prefix <= shortest)
    choices = {name: axis.known for name, axis in VARIANT_AXES.items()}
    space = fill_defaults(given, {**first, "score_mod": fitting, **choices})
    space.workloads()  # says in a line what is no workload
    return space


def _cell(
    row: tuple[str, str],
    column: str,
    device: Device,
    space: SearchSpace,
    chosen: Mapping[str, Choice],
) -> Cell:
    supported, refused = [], []
    for configuration in _combinations(space, chosen):
        reasons = unsupported_reasons(configuration, device)
        if reasons:
            refused.append((configuration, reasons))
        else:
            supported.append(configuration)
    # Those that one rule alone stands against say the most.
    refused.sort(key=lambda pair: len(pair[1]))
    return Cell(row, column, tuple(supported), tuple(refused))


def _combinations(space: SearchSpace, chosen: Mapping[str, Choice]) -> Iterator[Configuration]:
    """Yield `chosen` at every precision and score_mod, other axes at their simplest."""
    simple = {name: choices[0] for name, choices in space.axes.items()}
    if "static" in space.axes["cache"]:
        simple["cache"] = "static"  # what most other choices go with
    fields = {name: choice for name, choice in simple.items() if name in Workload.model_fields}
    if "gqa" in chosen and "kv_heads" not in space.axes and int(simple["q_heads"]) % 2 == 0:
        fields["kv_heads"] = int(simple["q_heads"]) // 2  # without groups it means nothing
    for mod in [chosen.get("score_mod")] if "score_mod" in chosen else space.axes["score_mod"]:
        workload = Workload.model_validate(fields | {"score_mod": mod})
        for precision in (
            [chosen["precision"]] if "precision" in chosen else space.axes["precision"]
        ):
            choices = {**simple, **chosen, "precision": precision}
            variant = {name: choice for name, choice in choices.items() if name in VARIANT_AXES}
            yield Configuration.of(workload, variant)


def print_support(
    console: Console, device: Device, given: Mapping[str, tuple[Choice, ...]]
) -> None:
    """Print both tables and the reasons."""
    core, others = core_cells(device, given), other_cells(device, given)
    _print_table(console, f"support on {device.name}", _CORE, core)
    _print_table(console, "other choices, one at a time", ("axis", "choice"), others)
    why = Counter(
        reasons[0]
        for cell in (*core, *others)
        if not cell.supported
        for _, reasons in cell.refused[:1]
    )
    console.print("why not (how many places of the tables):")
    for reason, count in why.most_common():
        console.print(f"{count:>5}  {reason}", highlight=False)


def _print_table(
    console: Console, title: str, headings: tuple[str, str], cells: list[Cell]
) -> None:
    table = Table(title=title, title_justify="left")
    columns = list(dict.fromkeys(cell.column for cell in cells))
    for heading in headings:
        table.add_column(heading)
    for column in columns:
        table.add_column(column, justify="center")
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for cell in cells:
        rows.setdefault(cell.row, {})[cell.column] = _mark(cell)
    last = ""
    for (group, name), marks in rows.items():
        if last and group != last:
            table.add_section()
        # Nothing where a backend does not have the axis.
        table.add_row(group if group != last else "", name, *(marks.get(c, "") for c in columns))
        last = group
    console.print(table)


def _mark(cell: Cell) -> str:
    """Return yes, –, or the precisions in which it runs where others are refused for theirs."""
    if not cell.supported:
        return "–"
    runs = {c.variant.precision for c in cell.supported}
    refused = {c.variant.precision for c, _ in cell.refused} - runs
    return " ".join(sorted(runs)) if refused and len(runs) < len(refused) else "yes"


@dataclass(frozen=True, slots=True)
class CheckedSupport:
    """What came of a combination that was tried."""

    configuration: Configuration
    reasons: tuple[str, ...]  # declared
    outcome: Outcome
    detail: str
    accepts: bool | None  # PyTorch's own answer, where it gives one

    @property
    def disagreement(self) -> str:
        """How declaration and device differ, or nothing."""
        runs = self.outcome not in (Outcome.REFUSED, Outcome.CRASHED, Outcome.INACCURATE)
        if not self.reasons and not runs:
            return f"declared to run, {self.outcome.value}: {self.detail}"
        if self.reasons and runs:
            return f"it runs, declared not to: {self.reasons[0]}"
        simple = self.configuration.variant.execution == "eager"
        if self.accepts is not None and simple and self.accepts != (not self.reasons):
            said = "takes" if self.accepts else "does not take"
            return f"PyTorch says that the backend {said} it"
        return ""


def check_support(
    console: Console, bench: DeviceBench, given: Mapping[str, tuple[Choice, ...]]
) -> list[CheckedSupport]:
    """Try a combination of each place of the tables, and return what came of each."""
    device = bench.device()
    tried: dict[str, CheckedSupport] = {}
    told = {"score_mod": tuple(entry.told for entry in SCORE_MODS.values())} | dict(given)
    cells = (*core_cells(device, told), *other_cells(device, told))
    with console.status("checking") as status:
        for number, cell in enumerate(cells, 1):
            configuration, reasons = (cell.supported[0], ()) if cell.supported else cell.refused[0]
            # TF32 on a CPU runs, as float32: a name that is not there cannot be tried.
            if configuration.key in tried or any("does not exist" in r for r in reasons):
                continue
            status.update(f"checking {number} of {len(cells)}: {configuration.key}")
            found = bench.evaluate(configuration)
            accepts = bench.accepted_by_pytorch(configuration)
            tried[configuration.key] = CheckedSupport(
                configuration, reasons, found.outcome, found.reason, accepts
            )
    return list(tried.values())


def print_checked(console: Console, tried: Sequence[CheckedSupport]) -> None:
    """Print how much was tried, and what is not as it is declared."""
    wrong = [checked for checked in tried if checked.disagreement]
    asked = sum(checked.accepts is not None for checked in tried)
    console.print(
        f"{len(tried)} combinations tried, {sum(bool(c.reasons) for c in tried)} of them "
        f"declared not to run; PyTorch was asked about {asked}: {len(wrong)} disagree"
    )
    for checked in wrong:
        of = checked.configuration
        label = f"{workload_label(of.workload, ())}  {variant_label(of.variant)}"
        console.print(f"  {label}: {checked.disagreement}", highlight=False)


def axes_markdown() -> str:
    """Return all named choices of all axes as Markdown."""
    parts = [
        "# Axes and their choices\n",
        "Generated by `python -m search support --markdown`. What a device runs of it, and why "
        "not the rest: `python -m search support`.\n",
    ]
    for axis in AXES.values():
        if axis.registry is None:
            continue
        parts.append(f"## {axis.name}\n\n{axis.help}\n\n| choice | |\n|---|---|")
        for name, entry in axis.registry.items():
            parts.append(f"| `{axis.written(name)}` | {entry.summary} |")
        parts.append("")
    return "\n".join(parts)
