"""What to type where an exported file is to be used."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from studies.export.document import Export
from variants.configuration import Configuration
from variants.deploy.loading_schema import CHOICE_OF
from variants.deploy.model_choice import ModelChoice
from variants.program import program

_HEADS = ("q_heads", "kv_heads", "head_dim")  # a model has one kind of them
_SHAPE = ("phase", "batch", "seq_len", "score_mod")


def loading_lines(document: Export, path: Path) -> list[str]:
    """Return the Python that loads the file: all of it, or as much as one model can have.

    Where workloads are of several models, or their winners of several, that of the first.
    """
    workloads = [of.workload for of in _chosen(document)]
    fields = [name for name in _HEADS if len({getattr(of, name) for of in workloads}) > 1]
    if document.pick == "dispatch" and not _agree(document, fields):
        fields += [name for name in _SHAPE if len({getattr(of, name) for of in workloads}) > 1]
    given = [f"{name}={_written(getattr(workloads[0], name))}" for name in fields]
    if document.plugins:
        given.append(f"plugins={[plugin.path for plugin in document.plugins]!r}")
    arguments = "".join(f", {argument}" for argument in given)
    return ["import variants", f"loaded = variants.load({str(path)!r}{arguments})"]


def _written(value: object) -> str:
    return repr(str(value)) if isinstance(value, str) else repr(value)


def _chosen(document: Export) -> Sequence[Configuration]:
    """Return what loading takes by default."""
    name = CHOICE_OF[document.prefer]
    taken = (
        document.of_single(name)
        if document.pick == "single"
        else [each.chosen.get(name) for each in document.workloads]
    )
    return [
        Configuration(workload=each.workload, variant=choice.variant)
        for each, choice in zip(document.workloads, taken, strict=True)
        if choice is not None
    ]


def _agree(document: Export, fields: Sequence[str]) -> bool:
    """Tell whether the winners for the first workload's `fields` fit into one model."""
    chosen = _chosen(document)
    first, *rest = (
        of.variant
        for of in chosen
        if all(getattr(of.workload, n) == getattr(chosen[0].workload, n) for n in fields)
    )
    model: ModelChoice | None = ModelChoice.of(first)
    for variant in rest:
        model = None if model is None else model.merged(ModelChoice.of(variant))
    return model is not None


def print_loading(console: Console, document: Export, path: Path) -> None:
    """Print how the file is loaded, and how it is checked where it will run."""
    console.print("to load it in Python:")
    for line in loading_lines(document, path):
        console.print(f"  {line}", highlight=False, soft_wrap=True)
    console.print(
        "  out = loaded.attention(query, key, value, score_mod=…)   # caches, models: "
        "docs/deploying.md",
        highlight=False,
        soft_wrap=True,
    )
    console.print("to measure its claims again, where it will run:")
    console.print(
        f"  {program()} verify {shlex.quote(str(path))}", highlight=False, soft_wrap=True
    )
