"""A surrogate of measurements over configurations: a Gaussian process on the prior's residual.

Configurations are points whose coordinates are axes. Two of them resemble each other by
exp(−Σ θ · d), with d = 0 or 1 on a named axis and the distance in powers of two on a numeric one:
what is learnt in one workload carries over to others as far as θ, fitted to the data, lets it.
Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, sections 2.7 and 5.2.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel

Matrix = NDArray[np.float64]

OCTAVES = 4.0  # powers of two between numbers that resemble each other as two names do
# What is believed of the hyperparameters before there is data, in log units: (mean, deviation) of
# the weight of an axis, of the variance of the residual and of the noise, all in log10 units.
WEIGHT = (np.log(0.4), 0.8)
VARIANCE = (np.log(0.1), 1.5)
NOISE = (np.log(1e-3), 1.0)


@dataclass(frozen=True, slots=True)
class Axes:
    """The coordinates of points: a row of numbers each, codes on named axes."""

    named: NDArray[np.bool_]  # by axis

    def distances(self, a: Matrix, b: Matrix) -> Matrix:
        """Return `(axes, len(a), len(b))`."""
        apart = np.abs(a.T[:, :, None] - b.T[:, None, :])
        distances: Matrix = np.where(self.named[:, None, None], apart > 0, apart / OCTAVES)
        return distances


class AxesKernel(Kernel):  # type: ignore[misc]
    """variance · exp(−Σ θ · d), and noise on the diagonal."""

    def __init__(self, axes: Axes, log: NDArray[np.float64] | None = None) -> None:
        """Set the logarithms of weights, variance and noise, in this order."""
        self.axes = axes
        count = len(axes.named)
        start = np.r_[np.full(count, WEIGHT[0]), VARIANCE[0], NOISE[0]]
        self.log = start if log is None else log

    @property
    def hyperparameter_log(self) -> Hyperparameter:
        """What is fitted. Named after the attribute, as scikit-learn wants it."""
        size = len(self.axes.named) + 2
        return Hyperparameter("log", "numeric", np.array([[1e-6, 1e3]] * size), size)

    @property
    def theta(self) -> NDArray[np.float64]:
        """The values that are fitted, logarithms already."""
        return self.log

    @theta.setter
    def theta(self, value: NDArray[np.float64]) -> None:
        self.log = np.asarray(value)

    @property
    def bounds(self) -> Matrix:
        """Of the logarithms."""
        limits: Matrix = np.log(np.array([[1e-6, 1e3]] * len(self.log)))
        return limits

    def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:
        weights, variance = np.exp(self.log[:-2]), float(np.exp(self.log[-2]))
        apart = self.axes.distances(X, X if Y is None else Y)
        alike = variance * np.exp(-np.tensordot(weights, apart, axes=1))
        if Y is not None:
            return alike
        noisy = float(np.exp(self.log[-1])) * np.eye(len(X))
        if not eval_gradient:
            return alike + noisy
        slopes = [-weight * one * alike for weight, one in zip(weights, apart, strict=True)]
        return alike + noisy, np.stack([*slopes, alike, noisy], axis=-1)

    def diag(self, X: Any) -> NDArray[np.float64]:
        return np.full(len(X), float(np.exp(self.log[-2])))

    def is_stationary(self) -> bool:
        return False


def _believed(
    objective: Callable[..., tuple[float, Any]], start: Any, bounds: Any
) -> tuple[Any, float]:
    """Maximise likelihood times belief: with a handful of points likelihood alone runs away."""
    mean = np.r_[np.full(len(start) - 2, WEIGHT[0]), VARIANCE[0], NOISE[0]]
    deviation = np.r_[np.full(len(start) - 2, WEIGHT[1]), VARIANCE[1], NOISE[1]]

    def penalised(log: Any) -> tuple[float, Any]:
        value, slope = objective(log, eval_gradient=True)
        off = (log - mean) / deviation
        return float(value + 0.5 * off @ off), slope + off / deviation

    found = minimize(
        penalised, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 20}
    )
    return found.x, float(found.fun)


class Surrogate:
    """Predicts one quantity, in log10, with its standard deviation."""

    def __init__(self, axes: Axes) -> None:
        """Start without data."""
        self._axes = axes
        self._log: NDArray[np.float64] | None = None
        self._model: GaussianProcessRegressor | None = None
        self._mean = 0.0

    def fit(self, points: Matrix, residuals: NDArray[np.float64], *, refit: bool) -> None:
        """Learn from residuals at points; `refit` learns hyperparameters too."""
        refit = refit or self._log is None
        self._mean = float(residuals.mean())
        self._model = GaussianProcessRegressor(
            AxesKernel(self._axes, self._log),
            alpha=1e-9,
            optimizer=_believed if refit else None,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a few steps are enough
            self._model.fit(points, residuals - self._mean)
        self._log = self._model.kernel_.log

    def predict(self, points: Matrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and deviation of the residual at points."""
        assert self._model is not None
        mean, deviation = self._model.predict(points, return_std=True)
        return mean + self._mean, deviation
