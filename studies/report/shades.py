"""How much less than the default: in words, and as the shade of a cell."""

from __future__ import annotations

from studies.results.labels import factor

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


def times(ratio: float, worse: str) -> str:
    """Return `1.75×` where less than the default is meant, else `1.75× slower`."""
    return (
        factor(ratio) if factor(ratio) == "1.00×" or ratio < 1 else f"{factor(1 / ratio)} {worse}"
    )


def gain(ratio: float, better: str, worse: str) -> str:
    """Return `1.75× faster`, or the other word with the factor turned round."""
    return f"{factor(ratio)} {better}" if ratio <= 1 else f"{factor(1 / ratio)} {worse}"
