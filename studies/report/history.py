"""What the search had found after so many trials, as curves of a drawing 100 wide and 100 high."""

from __future__ import annotations

from dataclasses import dataclass

from studies.report.intervals import ticks_of
from studies.report.scale import Scale
from studies.results.convergence import Steps, hypervolume_history
from studies.results.results import Results


@dataclass(frozen=True, slots=True)
class HistoryPlot:
    """Shares of the final hypervolume over trials."""

    curves: tuple[str, ...]  # of workloads: paths of SVG
    mean: str  # their mean; the only curve where there is one workload
    trials: tuple[tuple[float, str], ...]  # ticks: place in percent, text
    shares: tuple[tuple[float, str], ...]


def history_plot(results: Results) -> HistoryPlot | None:
    """Return the curves; None where nothing was measured."""
    history = hypervolume_history(results)
    if history.mean is None or not history.trials:
        return None
    across, up = Scale(0.0, history.trials), Scale(0.0, 1.0)

    def path(steps: Steps) -> str:
        drawn = [f"M0 {100 - up.at(steps.shares[0]):g}"]
        for trial, share in zip(steps.trials[1:], steps.shares[1:], strict=True):
            drawn.append(f"H{across.at(trial):g}V{100 - up.at(share):g}")
        return "".join([*drawn, "H100"])

    several = len(history.by_workload) > 1
    return HistoryPlot(
        curves=tuple(map(path, history.by_workload.values())) if several else (),
        mean=path(history.mean),
        trials=ticks_of(across, "{:,.0f}"),
        shares=ticks_of(up, "{:.0%}"),
    )
