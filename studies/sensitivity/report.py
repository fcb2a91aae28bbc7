"""The whole answer of `search sensitivity`, as a document and as rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import pandas as pd

from studies.numerics.interval import Interval
from studies.sensitivity.analysis import FAILURE, Objective, Sensitivity
from studies.sensitivity.effects import Share
from studies.sensitivity.evidence import Evidence
from studies.sensitivity.importances import Importances
from studies.sensitivity.quality import FLOOR, LEAST_PROBES
from studies.sensitivity.zone import Zone

VERSION = 1


@dataclass(frozen=True, slots=True)
class SensitivityReport:
    """Everything that is known of a study's sensitivity."""

    study_name: str
    evidence: Evidence
    sensitivity: Sensitivity
    zone: Zone
    importances: tuple[Importances, ...]

    def as_document(self) -> dict[str, object]:
        """Return what JSON can hold."""
        found, catalogue = self.sensitivity, self.evidence.catalogue
        return {
            "version": VERSION,
            "study": self.study_name,
            "possible": found.possible,
            "effects_over": {
                "configurations": len(found.extent.rows),
                "choices": {name: list(left) for name, left in found.extent.kept.items()},
            },
            "tried": len(self.evidence.observations.tried),
            "probes": found.probes,
            "roofline_prior": self.evidence.prior is not None,
            "floor": {"r_squared": FLOOR, "probes": LEAST_PROBES},
            "axes": {
                name: {
                    "choices": list(choices),
                    "reference": self.evidence.references[name],
                    "of": "variant" if name in catalogue.decided else "workload",
                    "determined": name in found.determined,
                }
                for name, choices in catalogue.choices.items()
            },
            "objectives": {
                name: _document(objective) for name, objective in found.objectives.items()
            },
            "optuna": [asdict(importances) for importances in self.importances],
            "zone": asdict(self.zone),
        }


def _document(objective: Objective) -> dict[str, object]:
    quality = objective.quality
    document = asdict(objective)
    document["quality"] |= {"refusal": quality.refusal, "more_probes": quality.more_probes}
    document["change_unit"] = "probability" if objective.name == FAILURE else "factor"
    return document


def as_rows(report: SensitivityReport) -> pd.DataFrame:
    """Return one row for each number, with its interval."""
    rows: list[Mapping[str, object]] = [
        row for objective in report.sensitivity.objectives.values() for row in _rows_of(objective)
    ]
    for choice in report.zone.choices:
        row: dict[str, object] = {"what": "zone", "axis": choice.axis, "choice": choice.choice}
        rows.append(row | {"value": choice.part.inside, "of": choice.part.tried})
    columns = ["objective", "what", "workload", "axis", "other_axis", "choice", "reference"]
    return pd.DataFrame(rows, columns=[*columns, "value", "low", "high", "of"])


def _rows_of(objective: Objective) -> Iterator[Mapping[str, object]]:
    base: dict[str, object] = {"objective": objective.name}
    quality = objective.quality
    if quality.r_squared is not None:
        row = base | {"what": "r_squared_on_probes", "of": quality.probes}
        yield row | _interval(quality.r_squared)
    yield from _shares(base | {"what": "share"}, objective.shares)
    yield from _shares(base | {"what": "share_inside_workloads"}, objective.decisions)
    for workload, shares in (objective.by_workload or {}).items():
        yield from _shares(base | {"what": "share", "workload": workload}, shares)
    for pair in objective.interactions:
        row = base | {"what": "interaction", "axis": pair.axes[0], "other_axis": pair.axes[1]}
        yield row | _interval(pair.share)
    for change in objective.changes:
        row = base | {"axis": change.axis, "choice": change.choice, "reference": change.reference}
        if change.effect is not None:
            row_of = row | {"what": "change", "of": change.comparable}
            yield row_of | _interval(change.effect)
        if change.seen is not None:
            yield row | {"what": "change_seen", "value": change.seen, "of": len(change.pairs)}
    for level in objective.levels:
        row = base | {"what": "log10_mean", "axis": level.axis, "choice": level.choice}
        yield row | _interval(level.mean)


def _shares(base: Mapping[str, object], shares: tuple[Share, ...]) -> Iterator[dict[str, object]]:
    for share in shares:
        for kind, interval in (("alone", share.alone), ("total", share.total)):
            what = f"{base['what']}_{kind}"
            yield {**base, "what": what, "axis": share.axis} | _interval(interval)


def _interval(interval: Interval) -> dict[str, object]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}
