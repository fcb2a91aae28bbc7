"""Every trial as the page's charts, filters and table need it, in columns: a page stays small."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from objectives.schema.evaluation import Evaluation, Outcome
from studies.results.candidate import in_turns, share_of_roofline
from studies.results.front import WorkloadResult
from studies.results.labels import choice_name, variant_label, workload_label
from studies.results.results import Results
from studies.study.trials import FinishedTrial
from variants.axes import AXES

INACTIVE = "inactive"  # where an axis means nothing
Json = Mapping[str, object]
_WORDS = ("name", "outcome", "reason", "bound", "ran")  # columns of few different texts


def page_data(results: Results, kept: Collection[int]) -> Json:
    """Return what the page's script draws of the trials that are kept; JSON without infinities.

    `trials` holds a list for each column, defaults first (their `trial` is null). A column of
    texts is the texts that occur and a place among them for each trial.
    """
    varying = set(results.plan.space.searched)
    places = {result.workload.key: place for place, result in enumerate(results.workloads)}
    axes = [axis for axis in results.plan.space.searched if AXES[axis].of_variant]
    by_workload = results.trials_by_workload()
    points = [
        _point(None, result.default, place) for place, result in enumerate(results.workloads)
    ] + [
        _point(trial.number, in_turns(trial.evaluation, results.workloads[place].finals), place)
        for trial in results.trials
        if trial.number in kept
        and (place := places.get(trial.evaluation.configuration.workload.key)) is not None
    ]
    chosen = [evaluation.configuration.variant.model_dump() for _, evaluation in points]
    columns = {
        name: _interned(words) if name in _WORDS else words
        for name in (points[0][0] if points else ())
        for words in ([point[name] for point, _ in points],)
    }
    return {
        "axes": {
            axis: {
                "order": [*results.plan.space.axes[axis], INACTIVE],
                **_interned(INACTIVE if c[axis] is None else c[axis] for c in chosen),
            }
            for axis in axes
        },
        "outcomes": [outcome.value for outcome in Outcome],
        "workloads": [
            {
                "label": workload_label(result.workload, varying),
                "roofline": _roofline(result, by_workload.get(result.workload.key, [])),
                "winners": _winners(result),
                "front": [candidate.number for candidate in result.front],
            }
            for result in results.workloads
        ],
        "trials": columns,
    }


def _interned(column: Iterable[object]) -> dict[str, list[object]]:
    """Return the different values of a column, and where among them each of its cells is."""
    cells = list(column)
    words = {word: place for place, word in enumerate(dict.fromkeys(cells))}
    return {"words": list(words), "places": [words[cell] for cell in cells]}


def _winners(result: WorkloadResult) -> dict[str, int | None]:
    """Return the trial of each choice; None for the default."""
    return {
        choice_name(preference, clear=winner.clear): winner.candidate.number
        for preference, winner in result.winners.items()
    }


def _roofline(result: WorkloadResult, trials: Sequence[FinishedTrial]) -> Json | None:
    """Return the least that any configuration tried needs, by the roofline of the study."""
    tried = (result.default, *(trial.evaluation for trial in trials))
    found = [each.measurements.roofline for each in tried if each.measurements is not None]
    least = [one for one in found if one is not None and one.rates != "typical"]
    if not least:
        return None
    return {
        "latency": _short(min(one.latency_ms for one in least)),
        "memory": _short(min(one.memory_mib for one in least)),
    }


def _short(number: float | None) -> float | None:
    """Return a number in some digits more than are shown, or None where it is not finite.

    Rounded twice it must come out as where it is rounded once, in the other outputs.
    """
    return None if number is None or not math.isfinite(number) else float(f"{number:.9g}")


def _point(
    number: int | None, evaluation: Evaluation, place: int
) -> tuple[dict[str, object], Evaluation]:
    measured = evaluation.measurements
    latency = None if measured is None else measured.latency
    gpu = None if latency is None or latency.gpu is None else latency.gpu.value
    point: dict[str, object] = {
        "trial": number,
        "workload": place,
        "name": variant_label(
            evaluation.configuration.variant, None if measured is None else measured.backend_ran
        ),
        "outcome": evaluation.outcome.value,
        "reason": evaluation.reason,
        "latency": _short(None if latency is None else latency.latency_ms),
        "low": _short(None if latency is None else latency.low_ms),
        "high": _short(None if latency is None else latency.high_ms),
        "gpu": _short(gpu),
        "host": _short(None if latency is None else latency.host.value),
        "bound": None if latency is None else latency.bound,
        "memory": _short(None if measured is None else measured.memory.peak_mib),
        "error": _short(None if measured is None else measured.relative_error),
        "ran": None if measured is None else measured.backend_ran,
        "roofline": _short(None if measured is None else share_of_roofline(measured)),
    }
    return point, evaluation
