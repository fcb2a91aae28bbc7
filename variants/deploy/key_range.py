"""Over how many keys a captured step attends: it holds for a range of lengths."""

from __future__ import annotations

SHORTEST_RANGE = 256  # tokens; below, a step's weights cost more than its keys
RANGES_AN_OCTAVE = 16  # a step reads at most a 16th more keys than there are


def key_range(length: int, capacity: int) -> int:
    """Return over how many keys a step attends that has `length` of them: the end of its range.

    A captured step holds for a range of lengths. Ranges grow with the length, so that few are
    needed and none reads much beyond what is there.
    """
    width = max(SHORTEST_RANGE, (1 << (length - 1).bit_length()) // (2 * RANGES_AN_OCTAVE))
    return min(-(-length // width) * width, capacity)
