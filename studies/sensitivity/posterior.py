"""What a Gaussian process knows of a quantity at every configuration, and how surely.

Draws from the posterior by Matheron's rule (Wilson et al., Pathwise conditioning of Gaussian
processes, JMLR 22, 2021): a draw from the process as believed before, corrected by what it misses
at the trials. The kernel is a product over axes, so both are products along the sides of a grid
that holds all configurations, and no matrix of all of them against each other is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from studies.numerics.arrays import Matrix
from studies.numerics.gp import Axes, AxesKernel, Surrogate

JITTER = 1e-9  # relative to the variance: keeps Cholesky factors real
TOGETHER = 16  # draws at once
# Deviations, in log10 units, of an offset to everything and of the slope over the prior around 1.
OFFSET, SLOPE = 3.0, 0.3
# The same of an effect of each choice wherever it stands, in deviations of the process. A process
# that is a product over axes hardly believes in them, and is too sure of averages without.
MAIN = 0.3


class Grid:
    """Points as cells of a product of sides; a side is one axis, or several together."""

    def __init__(self, points: Matrix, axes: Axes, together: NDArray[np.bool_]) -> None:
        """`points` are `(n, axes)`; the axes that `together` marks make one side."""
        sides = [np.flatnonzero(together)] if together.any() else []
        self._columns = [*sides, *np.flatnonzero(~together)[:, None]]
        self._axes = axes
        self._levels, codes = [], []
        for columns in self._columns:
            levels, code = np.unique(points[:, columns], axis=0, return_inverse=True)
            self._levels.append(levels)
            codes.append(code.reshape(-1))
        self.shape = tuple(len(levels) for levels in self._levels)
        self.size = int(np.prod(self.shape))
        self.cells: NDArray[np.int64] = np.ravel_multi_index(codes, self.shape)

    def kernels(self, weights: NDArray[np.float64]) -> list[Matrix]:
        """Return exp(−Σ θ · d) between the levels of each side."""
        found = []
        for columns, levels in zip(self._columns, self._levels, strict=True):
            log = np.r_[np.log(weights[columns]), 0.0, -np.inf]
            found.append(
                AxesKernel(Axes.of(levels, self._axes.named[columns].tolist()), log)(
                    levels, levels
                )
            )
        return found

    def times(self, factors: Sequence[Matrix], values: Matrix) -> Matrix:
        """Return the Kronecker product of `factors`, one a side, times `(cells, draws)`."""
        array = values.reshape(*self.shape, -1)
        for side, factor in enumerate(factors):
            array = np.moveaxis(np.tensordot(factor, array, axes=(1, side)), 0, side)
        return array.reshape(self.size, -1)


class Field:
    """A quantity over all points, before any value is known: prior, grid and basis functions."""

    def __init__(
        self, points: Matrix, axes: Axes, grid: Grid, prior: NDArray[np.float64] | None
    ) -> None:
        """Take the points and what is expected there, `(n,)`; None for no prior."""
        self.points, self.axes, self.grid = points, axes, grid
        ones = np.full((len(points), 1), OFFSET)
        self.given = np.zeros(len(points)) if prior is None else prior - prior.mean()
        # What is added to the process, each column times a standard normal number; the second
        # ones in its deviations.
        self.basis = ones if prior is None else np.c_[ones, SLOPE * self.given]
        choices = [column[:, None] == np.unique(column) for column in points.T]
        self.effects = MAIN * np.hstack(choices).astype(np.float64)

    def fit_hyperparameters(
        self, known: NDArray[np.int64], values: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the logarithms of the kernel's hyperparameters, given values at points."""
        surrogate = Surrogate(self.axes)
        surrogate.fit_hyperparameters(self.points[known], values - self.given[known])
        return surrogate.log


class Posterior:
    """The posterior of a field, given values at some of its points and hyperparameters."""

    def __init__(
        self,
        field: Field,
        known: NDArray[np.int64],
        values: NDArray[np.float64],
        log: NDArray[np.float64],
    ) -> None:
        """Condition the field on `values` at the points `known`."""
        self._field, self._known = field, known
        self._weights, self._kernel = np.exp(log[:-2]), AxesKernel(field.axes, log)
        self._variance, self._noise = float(np.exp(log[-2])), float(np.exp(log[-1]))
        self._basis = np.c_[field.basis, np.sqrt(self._variance) * field.effects]
        basis = self._basis[known]
        alike = self._kernel(field.points[known]) + basis @ basis.T
        alike += JITTER * self._variance * np.eye(len(known))
        self._factor = cho_factor(alike, lower=True)
        self._offset = float((values - field.given[known]).mean())
        self._missed = values - field.given[known] - self._offset

    def at(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and variance, noise included, of a measurement at a few points."""
        field = self._field
        across = self._kernel(field.points[indices], field.points[self._known])
        across += self._basis[indices] @ self._basis[self._known].T
        mean = field.given[indices] + self._offset + across @ cho_solve(self._factor, self._missed)
        before = self._variance + self._noise + (self._basis[indices] ** 2).sum(axis=1)
        known = (across * cho_solve(self._factor, across.T).T).sum(axis=1)
        return mean, np.maximum(before - known, self._noise)

    def mean(self) -> NDArray[np.float64]:
        """Return the expected value at every point."""
        field = self._field
        carried = self._carried(cho_solve(self._factor, self._missed)[:, None])[:, 0]
        mean: NDArray[np.float64] = field.given + self._offset + carried
        return mean

    def deviations(self, count: int, rng: np.random.Generator) -> Matrix:
        """Return `(points, count)` draws of how far the truth may be from the mean."""
        grid = self._field.grid
        roots: list[Matrix] = []
        for kernel in grid.kernels(self._weights):
            root = np.linalg.cholesky(kernel + JITTER * np.eye(len(kernel)))
            roots.append(root.astype(np.float64))
        drawn = []
        for start in range(0, count, TOGETHER):
            some = min(TOGETHER, count - start)
            normal = rng.standard_normal((grid.size, some))
            before = np.sqrt(self._variance) * grid.times(roots, normal)[grid.cells]
            before += self._basis @ rng.standard_normal((self._basis.shape[1], some))
            noise = np.sqrt(self._noise) * rng.standard_normal((len(self._known), some))
            seen = before[self._known] + noise
            drawn.append(before - self._carried(cho_solve(self._factor, seen)))
        return np.hstack(drawn)

    def _carried(self, weights: Matrix) -> Matrix:
        """Return the covariance of all points with the trials times `(trials, draws)`."""
        grid = self._field.grid
        cells = np.zeros((grid.size, weights.shape[1]))
        np.add.at(cells, grid.cells[self._known], weights)
        process = self._variance * grid.times(grid.kernels(self._weights), cells)[grid.cells]
        added: Matrix = process + self._basis @ (self._basis[self._known].T @ weights)
        return added
