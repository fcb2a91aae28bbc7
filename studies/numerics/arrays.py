"""The matrix that numerical modules share, in a file of its own: naming it imports no SciPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
