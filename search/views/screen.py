"""One screen: what was found in a sentence, a map of it, what must be known, what to do next."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from rich.console import Console

from studies.results.facts import facts
from studies.results.front import WorkloadResult
from studies.results.labels import (
    choice_name,
    gain,
    mebibytes,
    milliseconds,
    speed,
    trial_name,
    variant_label,
)
from studies.results.results import Results
from studies.results.summary import summary
from studies.results.winner_map import WinnerMap, winner_maps

LINES, COLUMNS = 23, 80  # of a screen of 24 lines, one is for what is printed above
_LEAST_KNOWN = 3  # lines of what must be known, which the map leaves room for
_FEWEST = 3  # commands, before the map has to be cut
# How a map is drawn: with a line for each title or not, and so many letters of a backend.
_LAYOUTS = ((True, None), (True, 5), (True, 4), (False, 5), (False, 4), (False, 3))
_GAP = "  "  # between maps that stand side by side


def print_screen(console: Console, results: Results, commands: Sequence[str]) -> None:
    """Print what a study found, in so many lines as fit on a screen."""
    for line in screen_lines(results, commands, min(console.width, COLUMNS)):
        console.print(line, highlight=False, soft_wrap=True)


def screen_lines(results: Results, commands: Sequence[str], width: int = COLUMNS) -> list[str]:
    """Return at most `LINES` lines; commands stay whole, and count as they are folded.

    Args:
        results: Of the study.
        commands: What leads on, most useful first; as many are shown as there is room for.
        width: Columns.
    """
    sentence = _wrapped(summary(results), width)
    fewest = _following(commands[:_FEWEST])
    room = LINES - len(sentence) - _height(fewest, width)
    drawn = _drawn(results, width, max(0, room - _LEAST_KNOWN))
    known = _known(results, width, max(0, room - len(drawn)))
    lines = [*sentence, *drawn, *known][: LINES - _height(fewest, width)]
    count = len(commands)
    while count > _FEWEST and len(lines) + _height(_following(commands[:count]), width) > LINES:
        count -= 1
    return [*lines, *_following(commands[:count])]


def _following(commands: Sequence[str]) -> list[str]:
    return ["next:", *(f"  {command}" for command in commands)]


def _height(lines: Sequence[str], width: int) -> int:
    """Return how many lines a terminal makes of them."""
    return sum(max(1, math.ceil(len(line) / width)) for line in lines)


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)


def _known(results: Results, width: int, room: int) -> list[str]:
    """Return what must be known, a line or two each, as far as there is room."""
    lines: list[str] = []
    found = list(facts(results))
    for place, fact in enumerate(found):
        more = _wrapped(f"· {fact}", width, "  ")
        last = place == len(found) - 1
        if len(lines) + len(more) + (not last) > room:
            left = len(found) - place
            return [*lines, f"· {left} more remark{'s' * (left > 1)}: show --all"][:room]
        lines += more
    return lines


def _drawn(results: Results, width: int, room: int) -> list[str]:
    """Return the map of several workloads, or the choices of one."""
    if len(results.workloads) == 1:
        return _choices(results.workloads[0], width)[:room]
    maps = winner_maps(results)
    if not maps or room < 1:
        return []
    head = (
        f"balanced winner and its gain in latency; {maps[0].row_axis} down, "
        f"{maps[0].column_axis} across"
    )
    lines: list[str] = []
    for titled, letters in _LAYOUTS:
        blocks = [_block(one, width, titled=titled, letters=letters) for one in maps]
        lines = _side_by_side(blocks, width)
        if len(lines) < room:
            break
    if len(lines) >= room:
        lines = [*lines[: max(0, room - 2)], "… more: show --all"]
    return [head[:width], *lines][:room]


def _block(one: WinnerMap, width: int, *, titled: bool, letters: int | None) -> list[str]:
    """Return a map's lines, its title above, or in the corner where there is little room."""
    values = " ".join(part.rpartition(" ")[2] for part in one.title.split(", "))
    corner = values[:8].rstrip(":_") if not titled else ""
    cells = [[_cell(result, letters) for result in row] for row in one.cells]
    first = max(len(corner), *(len(row) for row in one.rows))
    widths = [
        max(len(name), *(len(row[place]) for row in cells))
        for place, name in enumerate(one.columns)
    ]
    shown = len(widths)
    while shown > 1 and first + sum(1 + each for each in widths[:shown]) > width - 2:
        shown -= 1
    cut = " …" if shown < len(widths) else ""
    rows = [(corner, list(one.columns)), *zip(one.rows, cells, strict=True)]
    lines = [
        name.ljust(first)
        + "".join(f" {cell:<{each}}" for cell, each in zip(row[:shown], widths, strict=False))
        + cut
        for name, row in rows
    ]
    return [one.title, *lines] if titled and one.title else lines


def _cell(result: WorkloadResult | None, letters: int | None) -> str:
    if result is None:
        return ""
    if not result.winners:
        return "none"
    winner = result.winners["balanced"].candidate
    if winner.number is None:
        return "default"
    backend = winner.evaluation.configuration.variant.backend
    return f"{backend[:letters]} {speed(result.latency_ratio(winner))}"


def _side_by_side(blocks: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return blocks of lines, as many beside each other as the width takes."""
    lines: list[str] = []
    row: list[Sequence[str]] = []
    for block in blocks:
        if row and _breadth([*row, block]) > width:
            lines += _joined(row)
            row = []
        row.append(block)
    return lines + _joined(row)


def _breadth(row: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, block)) for block in row) + len(_GAP) * (len(row) - 1)


def _joined(row: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, block)) for block in row]
    height = max(map(len, row))
    return [
        _GAP.join(
            (block[place] if place < len(block) else "").ljust(each)
            for block, each in zip(row, widths, strict=True)
        ).rstrip()
        for place in range(height)
    ]


def _choices(result: WorkloadResult, width: int) -> list[str]:
    """Return the default and what was chosen, two lines each."""
    lines = []
    measured = result.default.measurements
    if measured is not None:
        name = variant_label(result.default.configuration.variant, measured.backend_ran)
        numbers = f"{'default':<15} {milliseconds(measured.latency.latency_ms):>8} ms"
        lines += [f"{numbers} {'':>16} {mebibytes(measured.memory.peak_mib):>9} MiB", f"  {name}"]
    names: dict[str, list[str]] = {}
    for preference, winner in result.winners.items():
        name = choice_name(preference, clear=winner.clear)
        names.setdefault(winner.candidate.key, []).append(name)
    chosen = {winner.candidate.key: winner.candidate for winner in result.winners.values()}
    for key, (first, *others) in names.items():
        one = chosen[key]
        faster = gain(result.latency_ratio(one), "faster", "slower")
        smaller = gain(result.memory_ratio(one), "smaller", "larger")
        variant = variant_label(one.evaluation.configuration.variant)
        who = f"{trial_name(one.number)} {variant}, error {one.error:.1e}"
        who = "the default" if one.number is None else who
        also = f"; also {' and '.join(others)}" if others else ""
        numbers = f"{first:<15} {milliseconds(one.latency):>8} ms {faster:>16}"
        lines += [f"{numbers} {mebibytes(one.memory):>9} MiB {smaller:>16}", f"  {who}{also}"]
    return [line.rstrip()[:width] for line in lines]
