"""Replays searches on a recorded table and scores what they found, budget by budget."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import optuna
import plotly.colors
import plotly.graph_objects

from objectives.schema.evaluation import Evaluation, Outcome
from studies.numerics.arrays import Matrix
from studies.numerics.hypervolume import hypervolume
from studies.replay.table import RecordedTable
from studies.samplers.samplers import make_sampler
from studies.space.catalogue import expected
from studies.study.baseline import WorkloadBaseline
from studies.study.trials import ask, tell
from variants.device import Device

MARGIN = 0.05  # log10 units behind a workload's worst measurement


@dataclass(frozen=True, slots=True)
class Score:
    """What one search had found after so many trials."""

    trials: int
    # Mean over workloads of hypervolume found / exhaustive; log10 of bytes and milliseconds.
    dispatch: float
    # The same of one front over all workloads, in bytes a token of context and ms a sequence.
    overall: float
    latency_regret: (
        float  # mean over workloads of lowest latency found / exhaustive lowest, less 1
    )
    seconds_per_ask: float


class Scorer:
    """Knows what an exhaustive search finds in a table."""

    def __init__(self, table: RecordedTable) -> None:
        self._table = table
        found = [e for e in table.evaluations if e.outcome is Outcome.MEASURED]
        self._by_workload = _by_workload(found)
        self._worst = {
            key: points.max(axis=0) + MARGIN for key, points in self._by_workload.items()
        }
        self._whole = {
            key: hypervolume(points, self._worst[key]) for key, points in self._by_workload.items()
        }
        everything = np.array([_per_unit(evaluation) for evaluation in found])
        self._overall_worst = everything.max(axis=0) + MARGIN
        self._overall = hypervolume(everything, self._overall_worst)

    def history(self, found: Iterable[Evaluation]) -> list[float]:
        """Return the dispatch score after each of the evaluations."""
        mine: dict[str, list[tuple[float, float]]] = {}
        shares = dict.fromkeys(self._by_workload, 0.0)
        scores = []
        for evaluation in found:
            if evaluation.outcome is Outcome.MEASURED:
                key = evaluation.configuration.workload.key
                points = mine.setdefault(key, [])
                points.append(_point(evaluation))
                got = hypervolume(np.array(points), self._worst[key])
                shares[key] = got / self._whole[key]
            scores.append(float(np.mean(list(shares.values()))))
        return scores

    def score(self, found: Sequence[Evaluation], seconds_per_ask: float) -> Score:
        """Score the evaluations of a search so far."""
        measured = [e for e in found if e.outcome is Outcome.MEASURED]
        mine = _by_workload(measured)
        shares, regrets = [], []
        for key, points in self._by_workload.items():
            got = mine.get(key)
            worst = self._worst[key]
            shares.append(0.0 if got is None else hypervolume(got, worst) / self._whole[key])
            lowest = points[:, 1].max() if got is None else got[:, 1].min()
            regrets.append(10 ** (lowest - points[:, 1].min()) - 1)
        overall = np.array([_per_unit(evaluation) for evaluation in measured]).reshape(-1, 2)
        return Score(
            trials=len(found),
            dispatch=float(np.mean(shares)),
            overall=hypervolume(overall, self._overall_worst) / self._overall,
            latency_regret=float(np.mean(regrets)),
            seconds_per_ask=seconds_per_ask,
        )


def replay(
    table: RecordedTable, sampler: str, seed: int, budgets: Sequence[int], device: Device | None
) -> Iterator[Score]:
    """Run one search on the table; yields its score at each budget, or at the end of the table.

    Args:
        table: What measuring says.
        sampler: One of `studies.samplers.samplers.SAMPLERS`.
        seed: Of the sampler.
        budgets: Numbers of trials, rising.
        device: That of the prior; None for no prior.
    """
    scorer, catalogue = Scorer(table), table.catalogue
    study = study_of(table, sampler, seed, device)
    found: list[Evaluation] = []
    asking = 0.0
    for budget in budgets:
        while len(found) < min(budget, len(catalogue)):
            before = time.perf_counter()
            trial = ask(study)
            asking += time.perf_counter() - before
            index = catalogue.find(trial.params)
            assert index is not None
            found.append(table.evaluations[index])
            tell(study, trial, found[-1], WorkloadBaseline(1.0, 1.0, True))
        yield scorer.score(found, asking / len(found))


def study_of(table: RecordedTable, sampler: str, seed: int, device: Device | None) -> optuna.Study:
    """Return a study in memory that searches a table; its arguments are those of `replay`."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    configurations = [evaluation.configuration for evaluation in table.evaluations]
    prior = None if device is None else partial(expected, configurations, device)
    return optuna.create_study(
        directions=["minimize", "minimize"],
        sampler=make_sampler(sampler, table.catalogue, prior, seed),
    )


def comparison(
    budgets: Sequence[int], curves: Mapping[str, Matrix], title: str
) -> plotly.graph_objects.Figure:
    """Plot dispatch scores, `(seeds, budgets)` by sampler: the mean, in a band over all seeds."""
    figure = plotly.graph_objects.Figure()
    for name, scores in curves.items():
        add_band(figure, budgets, scores, name)
    figure.update_xaxes(title="configurations tried", rangemode="tozero")
    figure.update_yaxes(title="share of the exhaustive hypervolume", range=[0, 1.02])
    figure.update_layout(title=title, template="plotly_white", legend={"y": 0.05, "x": 0.8})
    return figure


def add_band(
    figure: plotly.graph_objects.Figure,
    x: Sequence[float],
    scores: Matrix,
    name: str,
    mode: str = "lines+markers",
) -> None:
    """Add the mean of scores, `(seeds, len(x))`, in a band over all seeds."""
    colours = plotly.colors.qualitative.Safe
    colour = colours[len(figure.data) // 2 % len(colours)]
    figure.add_scatter(
        x=[*x, *reversed(x)],
        y=[*scores.max(axis=0), *scores.min(axis=0)[::-1]],
        fill="toself",
        fillcolor=colour.replace("rgb(", "rgba(").replace(")", ", 0.15)"),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
    )
    figure.add_scatter(
        x=list(x), y=list(scores.mean(axis=0)), name=name, line={"color": colour}, mode=mode
    )


def _by_workload(evaluations: Sequence[Evaluation]) -> dict[str, Matrix]:
    points: dict[str, list[tuple[float, float]]] = {}
    for evaluation in evaluations:
        points.setdefault(evaluation.configuration.workload.key, []).append(_point(evaluation))
    return {key: np.array(values) for key, values in points.items()}


def _point(evaluation: Evaluation) -> tuple[float, float]:
    assert evaluation.peak_memory_mib is not None
    assert evaluation.latency_ms is not None
    return float(np.log10(evaluation.peak_memory_mib)), float(np.log10(evaluation.latency_ms))


def _per_unit(evaluation: Evaluation) -> tuple[float, float]:
    memory, latency = _point(evaluation)
    workload = evaluation.configuration.workload
    tokens = float(np.log10(workload.batch * workload.seq_len))
    return memory - tokens, latency - float(np.log10(workload.batch))
