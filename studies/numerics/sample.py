"""Some of very many: evenly chosen, and always the same."""

from __future__ import annotations

import numpy as np


def evenly(count: int, most: int) -> list[int]:
    """Return at most so many of `count` places, evenly spread; the first is among them."""
    if count <= most:
        return list(range(count))
    return [int(place) for place in np.linspace(0, count, most, endpoint=False)]
