"""What numerical modules share: importing it needs no SciPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def evenly_spaced(count: int, most: int) -> list[int]:
    """Pick at most `most` of the indices below `count`, evenly spaced; the first is one."""
    if count <= most:
        return list(range(count))
    return [int(index) for index in np.linspace(0, count, most, endpoint=False)]
