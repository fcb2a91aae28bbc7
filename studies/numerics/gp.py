"""A Gaussian process over configurations, on the residual of the prior.

Configurations are points whose coordinates are axes. The kernel is variance · exp(−Σ θ · d), with
d = 0 or 1 on a named axis and the distance in powers of two on a numeric one: what is learnt in
one workload carries over to others as far as the weights θ, fitted to the data, let it.
Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, sections 2.7 and 5.2.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel

from studies.numerics.arrays import Matrix

MOST_LEVELS = 64  # different values of an axis, up to which distances are matrix products
OCTAVES = 4.0  # powers of two between numbers that are as far apart as two names
# Log-normal priors of the hyperparameters, (mean, standard deviation) of their logarithms: of the
# weight of an axis, of the variance of the residual and of the noise, in squared log10 units.
WEIGHT_PRIOR = (np.log(0.4), 0.8)
VARIANCE_PRIOR = (np.log(0.1), 1.5)
NOISE_PRIOR = (np.log(1e-3), 1.0)
NORMAL_MEDIAN = 0.6745  # median of the absolute value of a standard normal number
MOST_FITTED = 200  # observations that hyperparameters are fitted to
CHUNK = 10_000  # points whose mean is predicted at once


@dataclass(frozen=True, slots=True)
class Axes:
    """How distances are taken on the coordinates of points: names by code, numbers in octaves."""

    named: NDArray[np.bool_]  # by axis
    # By axis: all different values, rising; None where there are more than `MOST_LEVELS`.
    levels: tuple[Matrix | None, ...]

    @classmethod
    def of(cls, points: Matrix, named: Sequence[bool]) -> Axes:
        """Return the axes of these points, `(n, axes)`."""
        levels = [np.unique(column) for column in points.T]
        few = tuple(one if len(one) <= MOST_LEVELS else None for one in levels)
        return cls(np.array(named, dtype=bool), few)

    def distance(self, axis: int, a: Matrix, b: Matrix) -> Matrix:
        """Return the distances of points on one axis, `(len(a), len(b))`."""
        apart = a[:, axis, None] - b[None, :, axis]
        distance: Matrix = (apart != 0) * 1.0 if self.named[axis] else np.abs(apart) / OCTAVES
        return distance

    def weighted_distance(self, weights: Matrix, a: Matrix, b: Matrix) -> Matrix:
        """Return the weighted sum over the axes of the distances, `(len(a), len(b))`.

        A value among few is a row of zeros and ones whose differences are distances, so that most
        of the sum is one matrix product.
        """
        bits_a, bits_b, costs = [], [], []
        rest = np.zeros((len(a), len(b)))
        for axis, (levels, weight) in enumerate(zip(self.levels, weights, strict=True)):
            if levels is None:
                rest += weight * self.distance(axis, a, b)
            elif self.named[axis]:
                bits_a.append(a[:, axis, None] == levels)
                bits_b.append(b[:, axis, None] == levels)
                costs.append(np.full(len(levels), weight / 2))
            else:
                bits_a.append(a[:, axis, None] > levels[:-1])
                bits_b.append(b[:, axis, None] > levels[:-1])
                costs.append(weight * np.diff(levels) / OCTAVES)
        if costs:
            cost = np.concatenate(costs)
            left = np.concatenate(bits_a, axis=1) * cost
            right = np.concatenate(bits_b, axis=1, dtype=np.float64)
            rest += left.sum(axis=1)[:, None] + (right @ cost)[None, :] - 2 * (left @ right.T)
        return rest


class AxesKernel(Kernel):  # type: ignore[misc]
    """The kernel variance · exp(−Σ θ · d), with noise on the diagonal of a matrix with itself."""

    def __init__(self, axes: Axes, log: NDArray[np.float64] | None = None) -> None:
        """Take the logarithms of weights, variance and noise, in this order."""
        self.axes = axes
        count = len(axes.named)
        start = np.r_[np.full(count, WEIGHT_PRIOR[0]), VARIANCE_PRIOR[0], NOISE_PRIOR[0]]
        self.log = start if log is None else log

    @property
    def hyperparameter_log(self) -> Hyperparameter:
        """The hyperparameters; scikit-learn finds this by the name of the attribute `log`."""
        size = len(self.axes.named) + 2
        return Hyperparameter("log", "numeric", np.array([[1e-6, 1e3]] * size), size)

    @property
    def theta(self) -> NDArray[np.float64]:
        """The hyperparameters, as logarithms."""
        return self.log

    @theta.setter
    def theta(self, value: NDArray[np.float64]) -> None:
        self.log = np.asarray(value)

    @property
    def bounds(self) -> Matrix:
        """Bounds of the logarithms, `(hyperparameters, 2)`."""
        limits: Matrix = np.log(np.array([[1e-6, 1e3]] * len(self.log)))
        return limits

    def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:
        weights, variance = np.exp(self.log[:-2]), float(np.exp(self.log[-2]))
        other = X if Y is None else Y
        covariance = variance * np.exp(-self.axes.weighted_distance(weights, X, other))
        if Y is not None:
            return covariance
        noise = float(np.exp(self.log[-1])) * np.eye(len(X))
        if not eval_gradient:
            return covariance + noise
        slopes = [
            -weight * self.axes.distance(axis, X, X) * covariance
            for axis, weight in enumerate(weights)
        ]
        return covariance + noise, np.stack([*slopes, covariance, noise], axis=-1)

    def diag(self, X: Any) -> NDArray[np.float64]:
        return np.full(len(X), float(np.exp(self.log[-2])))

    def is_stationary(self) -> bool:
        return False


def _maximum_a_posteriori(
    objective: Callable[..., tuple[float, Any]], start: Any, bounds: Any
) -> tuple[Any, float]:
    """Return the hyperparameters of the largest posterior density, and minus its logarithm.

    With a handful of points, those of the largest likelihood alone would be far off.
    """
    mean = np.r_[np.full(len(start) - 2, WEIGHT_PRIOR[0]), VARIANCE_PRIOR[0], NOISE_PRIOR[0]]
    deviation = np.r_[np.full(len(start) - 2, WEIGHT_PRIOR[1]), VARIANCE_PRIOR[1], NOISE_PRIOR[1]]

    def penalised(log: Any) -> tuple[float, Any]:
        value, slope = objective(log, eval_gradient=True)
        off = (log - mean) / deviation
        return float(value + 0.5 * off @ off), slope + off / deviation

    found = minimize(
        penalised, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 20}
    )
    return found.x, float(found.fun)


class Surrogate:
    """A Gaussian process of one quantity, in log10: predicts its mean and standard deviation.

    First `fit_hyperparameters`, then `condition` on as many observations as there are.
    """

    def __init__(self, axes: Axes) -> None:
        self._axes = axes
        self._log: NDArray[np.float64] | None = None
        self._model: GaussianProcessRegressor | None = None
        self._mean = 0.0
        self._scale = 1.0

    @property
    def log(self) -> NDArray[np.float64]:
        """The logarithms of the kernel's hyperparameters, once they are fitted."""
        assert self._log is not None
        return self._log

    def fit_hyperparameters(self, points: Matrix, residuals: NDArray[np.float64]) -> None:
        """Fit the kernel's hyperparameters, to a subsample where there are many points."""
        some = subsample(len(points), MOST_FITTED)
        self._model = self._fit(points[some], residuals[some], _maximum_a_posteriori)
        self._log = self._model.kernel_.log
        self._scale = _deviation_scale(self._model)

    def condition(self, points: Matrix, residuals: NDArray[np.float64]) -> None:
        """Condition on the residuals at some points; the hyperparameters stay as they are."""
        self._model = self._fit(points, residuals, None)

    def _fit(
        self, points: Matrix, residuals: NDArray[np.float64], optimizer: Any
    ) -> GaussianProcessRegressor:
        self._mean = float(residuals.mean())
        model = GaussianProcessRegressor(
            AxesKernel(self._axes, self._log), alpha=1e-9, optimizer=optimizer
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a few steps are enough
            return model.fit(points, residuals - self._mean)

    def predict(self, points: Matrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and standard deviation of the residual at points, `(n,)` each."""
        assert self._model is not None
        mean, deviation = self._model.predict(points, return_std=True)
        return mean + self._mean, deviation * self._scale

    def predict_mean(self, points: Matrix) -> NDArray[np.float64]:
        """Return the mean alone, which is cheap, at any number of points."""
        assert self._model is not None
        parts = [
            self._model.predict(points[start : start + CHUNK])
            for start in range(0, len(points), CHUNK)
        ]
        mean: NDArray[np.float64] = np.concatenate(parts) + self._mean
        return mean


def _deviation_scale(model: GaussianProcessRegressor) -> float:
    """Return by what to multiply predicted deviations so that they are as large as errors are.

    From leave-one-out predictions (Rasmussen and Williams, section 5.4.2), by the median of their
    standardised errors: a few surprises, which widen all deviations, do not make the rest
    uncertain.
    """
    inverse = cho_solve((model.L_, True), np.eye(len(model.L_)))
    errors = (inverse @ model.y_train_) / np.sqrt(np.diag(inverse))
    return float(np.clip(np.median(np.abs(errors)) / NORMAL_MEDIAN, 0.1, 1.0))


def subsample(count: int, most: int) -> NDArray[np.int64]:
    """Pick at most `most` of `count` indices: half are the last ones, half evenly of the rest."""
    if count <= most:
        return np.arange(count, dtype=np.int64)
    last = most // 2
    early = np.linspace(0, count - last, most - last, endpoint=False).astype(np.int64)
    late = np.arange(count - last, count, dtype=np.int64)
    return np.concatenate([early, late])
