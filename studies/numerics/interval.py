"""An estimate and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval; the three are equal where it is exact."""

    value: float
    low: float
    high: float
