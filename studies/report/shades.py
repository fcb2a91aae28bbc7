"""How much less than the default: as the shade of a cell."""

from __future__ import annotations

KEY = {  # of the map: shade, what it means
    "most": "5× and more",
    "much": "2× and more",
    "better": "5 % and more",
    "same": "within 5 %",
    "worse": "slower",
}


def shade_of(latency_ratio: float) -> str:
    """Return one of the shades of `KEY` for a latency as a share of the default's."""
    for limit, shade in ((0.2, "most"), (0.5, "much"), (0.95, "better"), (1.05, "same")):
        if latency_ratio <= limit:
            return shade
    return "worse"
