"""Effects of axes on a quantity, over all possible configurations of a space.

The possible configurations are no product of the axes: some combinations cannot run, and some
axes mean nothing beside some choices (a cache that is not kept has no kv_dtype). All shares are
uniform over the configurations that are possible. One in which an axis means nothing stands for
each choice of that axis, at equal parts of its weight: changing what means nothing changes
nothing, and a choice can be compared with one that lacks the axis.

Shares of variance after Sobol', Mathematics and Computers in Simulation 55, 2001; total effects
after Homma and Saltelli, Reliability Engineering & System Safety 52, 1996. Where all combinations
are possible, interactions are the superset importances of Liu and Owen, JASA 101, 2006.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from studies.numerics.arrays import Matrix

INACTIVE = 0  # the code of an axis that means nothing in a configuration
LEAST_CELLS = 4  # two by two: of fewer, a sum of two effects explains everything


@dataclass(frozen=True, slots=True)
class Contrast:
    """One choice of an axis instead of another, wherever both are possible and all else agrees."""

    weights: NDArray[np.float64]  # (configurations,): times values, the mean difference
    chosen: NDArray[np.int64]  # (pairs,): configurations with the choice
    reference: NDArray[np.int64]  # (pairs,): the same but for the axis


@dataclass(frozen=True, slots=True)
class _Shape:
    """Groups that hold the same combinations of two axes at the same weights."""

    owners: NDArray[np.int64]  # (groups, cells): configurations
    root: NDArray[np.float64]  # (cells,): square roots of the weights
    basis: Matrix  # (cells, rank): orthonormal, of all sums of two effects


class Population:
    """Configurations by the codes of their axes; all effects are uniform over them.

    `values` are `(configurations, draws)` everywhere, and what is returned is by draw.
    """

    def __init__(self, codes: NDArray[np.integer]) -> None:
        """`codes`, `(configurations, axes)`: of choices, from 1, or `INACTIVE`."""
        self.count, axes = codes.shape
        self.axes = range(axes)
        rows, owners, parts = [], [], []
        lacking = codes == INACTIVE
        known = [np.setdiff1d(codes[:, axis], [INACTIVE]) for axis in self.axes]
        for pattern in np.unique(lacking, axis=0):
            mine = np.flatnonzero((lacking == pattern).all(axis=1))
            columns = [axis for axis in np.flatnonzero(pattern) if len(known[axis])]
            fillings = list(itertools.product(*(known[axis] for axis in columns)))
            for filling in fillings:
                filled = codes[mine].astype(np.int64)
                filled[:, columns] = filling
                rows.append(filled)
                owners.append(mine)
                parts.append(np.full(len(mine), 1 / len(fillings)))
        self._codes = np.concatenate(rows)
        self._owner = np.concatenate(owners)
        self._weight = np.concatenate(parts)
        sizes = self._codes.max(axis=0) + 1
        self._radix = np.r_[1, np.cumprod(sizes[:-1])].astype(np.int64)
        self._group_of: dict[tuple[int, ...], NDArray[np.int64]] = {}
        self._sums: dict[tuple[int, ...], csr_matrix] = {}
        self._shapes: dict[tuple[int, int], list[_Shape]] = {}

    def _groups(self, columns: Sequence[int]) -> NDArray[np.int64]:
        """Return, by row, the number of the group that agrees in `columns`."""
        chosen = sorted(columns)
        key = tuple(chosen)
        if key not in self._group_of:
            codes = self._codes[:, chosen] @ self._radix[chosen]
            _, group = np.unique(codes, return_inverse=True)
            self._group_of[key] = np.asarray(group, dtype=np.int64).reshape(-1)
        return self._group_of[key]

    def _rest(self, *axes: int) -> list[int]:
        return [axis for axis in self.axes if axis not in axes]

    def variance_within(self, columns: Sequence[int], values: Matrix) -> NDArray[np.float64]:
        """Return E[Var(Y | columns)]."""
        key = tuple(sorted(columns))
        if key not in self._sums:
            group = self._groups(key)
            shape = int(group.max()) + 1, self.count
            self._sums[key] = csr_matrix((self._weight, (group, self._owner)), shape=shape)
        sums = self._sums[key]
        centred = values - values.mean(axis=0)
        between = ((sums @ centred) ** 2 / np.asarray(sums.sum(axis=1))).sum(axis=0)
        within: NDArray[np.float64] = np.maximum((centred**2).sum(axis=0) - between, 0.0)
        within /= self.count
        return within

    def alone(self, axis: int, given: Sequence[int], values: Matrix) -> NDArray[np.float64]:
        """Return E[Var(E[Y | axis, given] | given)]: what the axis does by itself."""
        wider = self.variance_within(given, values)
        return np.maximum(wider - self.variance_within([*given, axis], values), 0.0)

    def total(self, axis: int, values: Matrix) -> NDArray[np.float64]:
        """Return E[Var(Y | all other axes)]: what the axis does by itself and with others."""
        return self.variance_within(self._rest(axis), values)

    def freedom(self, axis: int) -> float:
        """Return the share of configurations in which the axis can change and nothing else.

        Where it is 0, the other axes determine it.
        """
        group = self._groups(self._rest(axis))
        distinct, _ = _distinct(group, self._owner, self.count)
        free = np.bincount(distinct)[group] > 1
        return float(self._weight[free].sum() / self.count)

    def interaction(self, one: int, other: int, values: Matrix) -> NDArray[np.float64]:
        """Return the variance that no sum of an effect of each of the two axes explains.

        Within configurations that agree in all other axes, by least squares: combinations that
        are impossible are no interaction.
        """
        key = min(one, other), max(one, other)
        if key not in self._shapes:
            self._shapes[key] = self._shapes_of(*key)
        unexplained = np.zeros(values.shape[1])
        for shape in self._shapes[key]:
            seen = values[shape.owners] * shape.root[:, None]  # (groups, cells, draws)
            fitted = np.tensordot(seen, shape.basis, axes=(1, 0))
            unexplained += (seen**2).sum(axis=(0, 1)) - (fitted**2).sum(axis=(0, 2))
        left: NDArray[np.float64] = np.maximum(unexplained, 0.0) / self.count
        return left

    def _shapes_of(self, one: int, other: int) -> list[_Shape]:
        group = self._groups(self._rest(one, other))
        order = np.lexsort((self._codes[:, other], self._codes[:, one], group))
        starts = np.flatnonzero(np.r_[True, np.diff(group[order]) > 0])
        sizes = np.diff(np.r_[starts, len(order)])
        cells = np.c_[self._codes[:, [one, other]], self._weight]
        found = []
        for size in np.unique(sizes[sizes >= LEAST_CELLS]):
            members = order[starts[sizes == size][:, None] + np.arange(size)]  # (groups, cells)
            flat = cells[members].reshape(len(members), -1)
            _, shape_of = np.unique(flat, axis=0, return_inverse=True)
            for shape in range(shape_of.max() + 1):
                rows = members[shape_of.reshape(-1) == shape]
                root = np.sqrt(self._weight[rows[0]])
                basis = _sums_of_two(self._codes[rows[0]][:, [one, other]], root)
                if basis.shape[1] < size:
                    found.append(_Shape(self._owner[rows], root, basis))
        return found

    def contrast(self, axis: int, choice: int, reference: int) -> Contrast | None:
        """Return `choice` instead of `reference`; None where nothing can be compared."""
        group = self._groups(self._rest(axis))
        places = np.full((2, int(group.max()) + 1), -1, dtype=np.int64)
        for row, code in enumerate((choice, reference)):
            mine = np.flatnonzero(self._codes[:, axis] == code)
            places[row, group[mine]] = mine
        places = places[:, (places >= 0).all(axis=0)]
        owners = self._owner[places]
        differ = owners[0] != owners[1]  # a configuration without the axis holds both choices
        if not differ.any():
            return None
        owners, weight = owners[:, differ], self._weight[places[:, differ]].min(axis=0)
        weights = np.zeros(self.count)
        np.add.at(weights, owners[0], weight / weight.sum())
        np.add.at(weights, owners[1], -weight / weight.sum())
        return Contrast(weights, *_distinct(owners[0], owners[1], self.count))

    def holds(self, axis: int, choice: int) -> bool:
        """Tell whether some configuration has the choice."""
        return bool((self._codes[:, axis] == choice).any())

    def mean_at(self, axis: int, choice: int) -> NDArray[np.float64]:
        """Return weights of configurations: times values, the mean of those with the choice."""
        mine = self._codes[:, axis] == choice
        weights = np.bincount(self._owner[mine], self._weight[mine], minlength=self.count)
        mean: NDArray[np.float64] = weights / weights.sum()
        return mean


def _distinct(
    first: NDArray[np.int64], second: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each pair of numbers once, sorted; the second ones are below `count`.

    As one number each: sorting pairs is far slower.
    """
    one, other = np.divmod(np.unique(first * count + second), count)
    return one, other


def _sums_of_two(codes: NDArray[np.int64], root: NDArray[np.float64]) -> Matrix:
    """Return an orthonormal basis of all sums of an effect of each axis, weighted by `root`."""
    dummies = [codes[:, [axis]] == np.unique(codes[:, axis]) for axis in range(2)]
    basis, size, _ = np.linalg.svd(np.hstack(dummies) * root[:, None], full_matrices=False)
    kept: Matrix = basis[:, size > 1e-9]
    return kept
