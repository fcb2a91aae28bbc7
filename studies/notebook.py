"""Stored studies in a notebook: results that show themselves, a table, and figures.

```python
from studies.notebook import as_table, front_figure, open_results

results = open_results()  # the newest study of goldilocks.db
results  # shows each workload's winners
as_table(results)  # a pandas DataFrame: a row a trial
front_figure(results)  # a plotly figure
```
"""

from __future__ import annotations

import os

import optuna
import plotly.graph_objects as go

from studies.dashboard.front_figures import front_figure, history_figure, map_figure
from studies.results.results import Results, as_table, read_results
from studies.sensitivity.assess import assess
from studies.sensitivity.figures import figures
from studies.sensitivity.report import SensitivityReport
from studies.storage.url import DEFAULT_ADDRESS, STORAGE_VARIABLE
from studies.study.study import load_study, open_storage

__all__ = [
    "as_table",
    "front_figure",
    "history_figure",
    "map_figure",
    "open_results",
    "open_sensitivity",
    "sensitivity_figures",
]


def open_results(study: str | None = None, storage: str | None = None) -> Results:
    """Read what a stored study found; nothing is made or changed.

    Args:
        study: Its name; the newest if not given.
        storage: Where it is, as of `--storage`; like that, else what GOLDILOCKS_STORAGE says, else
            goldilocks.db in the working directory.

    Raises:
        DatabaseUrlError: There is no such database.
        StudyError: There is no such study, or it cannot be read.
    """
    return read_results(_study(study, storage))


def open_sensitivity(study: str | None = None, storage: str | None = None) -> SensitivityReport:
    """Judge which choices of a stored study matter; takes seconds. Raises as `open_results`."""
    return assess(_study(study, storage))


def _study(name: str | None, storage: str | None) -> optuna.Study:
    address = storage or os.environ.get(STORAGE_VARIABLE) or DEFAULT_ADDRESS
    return load_study(open_storage(address, create=False), name)


def sensitivity_figures(report: SensitivityReport) -> dict[str, go.Figure]:
    """Return figures by name: effects, interactions, numbers and zone, as far as there are any."""
    return figures(report)
