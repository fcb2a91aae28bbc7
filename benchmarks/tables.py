"""What the drivers that search a recorded table need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import optuna
import typer

from studies.numerics.arrays import Matrix
from studies.replay.table import RecordedTable
from studies.samplers.base import CatalogueSampler
from studies.samplers.samplers import OWN, make_sampler
from studies.space.catalogue import expected
from studies.study.baseline import WorkloadBaseline
from studies.study.trials import ask, tell
from variants.device import DEVICE_PROFILES

TablePath = Annotated[Path, typer.Argument(metavar="TABLE.csv", help="A recorded table.")]
Seeds = Annotated[int, typer.Option(min=1, help="Searches of each kind.")]
ProfileName = Annotated[str, typer.Option(help=f"The prior's: {', '.join(DEVICE_PROFILES)}.")]
Prior = Callable[[], Matrix]


def prior_of(table: RecordedTable, profile: str) -> Matrix:
    """Return what the roofline of a device expects of a table's rows, `(n, 2)`."""
    configurations = [evaluation.configuration for evaluation in table.evaluations]
    return expected(configurations, DEVICE_PROFILES[profile].device)


def searched(
    table: RecordedTable, seed: int, trials: int, prior: Prior | None, sampler: str = OWN
) -> tuple[optuna.Study, CatalogueSampler]:
    """Search a table. Returns the study, with so many trials, and its sampler."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made = make_sampler(sampler, table.catalogue, prior, seed)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=made)
    for _ in range(min(trials, len(table.catalogue))):
        trial = ask(study)
        index = table.catalogue.find(trial.params)
        assert index is not None
        tell(study, trial, table.evaluations[index], WorkloadBaseline(1.0, 1.0, True))
    return study, made
