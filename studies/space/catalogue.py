"""The catalogue: all possible configurations of a study as a table of codes, a row for each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from objectives.roofline.prior import predict
from studies.numerics.arrays import Matrix
from studies.space.space import Survey
from variants.axes import AXES, Choice
from variants.configuration import Configuration
from variants.device import Device


@dataclass(frozen=True)
class Catalogue:
    """All configurations of a study, workload by workload."""

    choices: Mapping[str, tuple[Choice, ...]]  # of the axes that vary: the parameters of trials
    decided: frozenset[str]  # those of them that belong to the variant, not to the workload
    codes: NDArray[
        np.int16
    ]  # (n, axes): place of the choice, from 1; 0 where the axis is inactive
    workloads: NDArray[np.int64]  # (n,): number of the workload, from 0, rising

    def __len__(self) -> int:
        return len(self.codes)

    def params(self, index: int) -> dict[str, Choice]:
        """Return the parameters of a trial of the configuration."""
        pairs = zip(self.choices.items(), self.codes[index], strict=True)
        return {name: choices[code - 1] for (name, choices), code in pairs if code}

    def find(self, params: Mapping[str, object]) -> int | None:
        """Return the configuration of a trial's parameters; None where it is not one of these.

        Parameters that mean nothing beside the others are passed over.
        """
        row = np.zeros(len(self.choices), dtype=np.int16)
        for column, (name, codes) in enumerate(self._code_of.items()):
            if name in params:
                code = codes.get(params[name])
                if code is None:
                    return None
                row[column] = code
        for active in self._patterns:
            index = self._index.get((row * active).tobytes())
            if index is not None:
                return index
        return None

    def of_workload(self, number: int) -> range:
        """Return the rows of a workload, by its number."""
        low, high = np.searchsorted(self.workloads, [number, number + 1])
        return range(int(low), int(high))

    def coverage(self, tried: Collection[int]) -> dict[str, dict[Choice, tuple[int, int]]]:
        """Return how many configurations of each choice were tried, and are possible.

        Axes that mean nothing in this space (a cache where nothing decodes) are left out.
        """
        rows = np.array(sorted(tried), dtype=np.int64)
        found: dict[str, dict[Choice, tuple[int, int]]] = {}
        for column, (name, choices) in enumerate(self.choices.items()):
            all_of = np.bincount(self.codes[:, column], minlength=len(choices) + 1)
            of_tried = np.bincount(self.codes[rows, column], minlength=len(choices) + 1)
            found[name] = {
                choice: (int(of_tried[code]), int(all_of[code]))
                for code, choice in enumerate(choices, 1)
                if all_of[code]
            }
        return {name: of_axis for name, of_axis in found.items() if of_axis}

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """How many configurations each workload has."""
        return np.bincount(self.workloads)

    @property
    def named(self) -> list[bool]:
        """Which columns of `points` are names."""
        return [not _numeric(choices) for choices in self.choices.values()]

    @cached_property
    def points(self) -> Matrix:
        """Coordinates, `(n, axes)`: codes of names, powers of two of numbers."""
        points = self.codes.astype(np.float64)
        for column, choices in enumerate(self.choices.values()):
            if _numeric(choices):
                values = np.array([0.0, *(np.log2(float(choice)) for choice in choices)])
                points[:, column] = values[self.codes[:, column]]
        return points

    @cached_property
    def _code_of(self) -> dict[str, dict[object, int]]:
        return {
            name: {choice: code for code, choice in enumerate(choices, 1)}
            for name, choices in self.choices.items()
        }

    @cached_property
    def _index(self) -> dict[bytes, int]:
        return {row.tobytes(): index for index, row in enumerate(self.codes)}

    @cached_property
    def _patterns(self) -> NDArray[np.int16]:
        """Which axes are active together, `(patterns, axes)`; the most active ones first."""
        patterns = np.unique(self.codes > 0, axis=0)
        return patterns[np.argsort(-patterns.sum(axis=1), kind="stable")].astype(np.int16)


def catalogue_of(survey: Survey) -> Catalogue:
    """Return the possible configurations of a survey, in its order."""
    choices = survey.space.searched
    variants: dict[int, dict[str, Choice]] = {}  # by identity: workloads share them
    rows: list[Mapping[str, Choice]] = []
    for workload in survey.workloads:
        of_workload = workload.model_dump(mode="json")
        for variant in survey.possible[workload.key]:
            if id(variant) not in variants:
                variants[id(variant)] = variant.model_dump(exclude_none=True)
            rows.append(of_workload | variants[id(variant)])
    sizes = [len(survey.possible[workload.key]) for workload in survey.workloads]
    decided = frozenset(name for name in choices if AXES[name].of_variant)
    return Catalogue(
        choices, decided, encode(choices, rows), np.repeat(np.arange(len(sizes)), sizes)
    )


def encode(
    choices: Mapping[str, Sequence[Choice]], rows: Iterable[Mapping[str, Choice]]
) -> NDArray[np.int16]:
    """Return the codes of rows; an axis that a row lacks is inactive there."""
    code_of = {name: {c: i for i, c in enumerate(known, 1)} for name, known in choices.items()}
    codes = [[of[row[name]] if name in row else 0 for name, of in code_of.items()] for row in rows]
    return np.array(codes, dtype=np.int16).reshape(len(codes), len(choices))


def expected(configurations: Iterable[Configuration], device: Device) -> Matrix:
    """Return the log10 MiB and log10 ms that the roofline expects, `(n, 2)`."""
    predicted = [predict(configuration, device) for configuration in configurations]
    return np.log10([[one.memory_mib, one.latency_ms] for one in predicted]).reshape(-1, 2)


def _numeric(choices: Sequence[Choice]) -> bool:
    return all(isinstance(choice, int) for choice in choices)
