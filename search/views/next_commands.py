"""The commands that a user may want after a run or a look at a study."""

from __future__ import annotations

import shlex

from search.options.shared_options import storage_words
from studies.results.results import Results
from variants.program import program

MORE_TRIALS = 200


def next_commands(
    results: Results, storage: str, *, size: int, stopped_at: int | None = None
) -> list[str]:
    """Return what leads on, most useful first.

    Args:
        results: Of the study.
        storage: Where it is.
        size: Of its space, as far as it is known; more trials than that are not to be had.
        stopped_at: The budget of a run that was stopped before it was spent.
    """
    of = f" --study {shlex.quote(results.study_name)}{storage_words(storage)}"
    told = len(results.trials)
    lines = []
    if stopped_at is not None:
        lines.append(f"{program()} run{of} --trials {stopped_at}   (resumes)")
    if any(not result.timed_in_turns for result in results.workloads):
        lines.append(f"{program()} run{of} --trials {max(1, told)}   (times the finalists)")
    lines += [
        f"{program()} show{of} --all",
        f"{program()} report{of} --output report.html",
        f"{program()} export{of} --output best.json",
    ]
    if stopped_at is None and told < size:
        lines.append(f"{program()} run{of} --trials {told + MORE_TRIALS}   (goes on)")
    return lines
