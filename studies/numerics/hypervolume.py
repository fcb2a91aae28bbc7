"""Hypervolume of two minimised objectives, and the improvement of it by further points."""

from __future__ import annotations

import numpy as np

from studies.numerics.arrays import Matrix


def pareto_front(points: Matrix) -> Matrix:
    """Return the points that no other one dominates, by rising first objective."""
    order = points[np.lexsort((points[:, 1], points[:, 0]))]
    lowest = np.minimum.accumulate(order[:, 1]) if len(order) else order[:, 1]
    first = np.ones(len(order), dtype=bool)
    first[1:] = order[1:, 1] < lowest[:-1]
    return order[first]


def hypervolume(points: Matrix, reference: Matrix) -> float:
    """Return the area between `points`, `(n, 2)`, and the worst corner `reference`, `(2,)`."""
    inside = points[(points < reference).all(axis=1)]
    steps = pareto_front(inside)
    if not len(steps):
        return 0.0
    until = np.append(steps[1:, 0], reference[0])
    return float(((until - steps[:, 0]) * (reference[1] - steps[:, 1])).sum())


def improvements(front: Matrix, reference: Matrix, points: Matrix) -> Matrix:
    """Return the hypervolume improvement of each of `points`, `(..., 2)`, alone over `front`.

    Both objectives are minimised; `reference`, `(2,)`, is the corner that bounds the hypervolume.
    """
    steps = pareto_front(front)
    edges = np.concatenate([[-np.inf], steps[:, 0], reference[:1]])
    heights = np.concatenate([reference[1:], steps[:, 1]])
    each = (-1, *(1 for _ in points.shape[:-1]))  # a strip a step, along an axis of its own
    low, high = edges[:-1].reshape(each), np.minimum(edges[1:], reference[0]).reshape(each)
    width = np.maximum(high - np.maximum(points[..., 0], low), 0)
    height = np.maximum(heights.reshape(each) - points[..., 1], 0)
    total: Matrix = (width * height).sum(axis=0)
    return total
