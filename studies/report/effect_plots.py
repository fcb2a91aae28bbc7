"""What a sensitivity analysis found, drawn: shares of axes, and what each choice does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from studies.report.intervals import Group, IntervalPlot, Line, Mark, mark, ticks_of
from studies.report.scale import Scale, around
from studies.results.labels import gain
from studies.sensitivity.analysis import LATENCY, MEMORY, Objective
from studies.sensitivity.changes import ChoiceEffect

NAMES = {LATENCY: "latency", MEMORY: "memory"}
_LESS = {LATENCY: ("faster", "slower"), MEMORY: ("less", "more")}
_SAME = 0.005  # a factor so near to 1 is none


def shares_plot(objectives: Mapping[str, Objective]) -> IntervalPlot | None:
    """Return which axes drive memory and latency; None where nothing is ranked."""
    ranked = {name: objectives[name] for name in NAMES if objectives[name].shares}
    if not ranked:
        return None
    scale = Scale(0.0, 1.0)
    by_axis = {name: {share.axis: share for share in one.shares} for name, one in ranked.items()}
    axes = dict.fromkeys(axis for one in by_axis.values() for axis in one)
    lines = []
    for axis in axes:
        marks: list[Mark] = []
        texts = []
        for name, shares in by_axis.items():
            if axis not in shares:
                continue
            share = shares[axis]
            for kind, part in (("", share.total), (" alone", share.alone)):
                said = f"{NAMES[name]}{kind or ', with others'}: {part.value:.0%}"
                said += f" ({part.low:.0%} to {part.high:.0%})"
                ends = (part.low, part.high)
                marks.append(mark(scale, NAMES[name] + kind, said, part.value, ends))
            texts.append(f"{NAMES[name]} {share.total.value:.0%}")
        lines.append(Line(axis, ", ".join(texts), tuple(marks)))
    return IntervalPlot(
        title="What drives memory and latency",
        about="Share of the variance of their logarithms over all possible configurations, with "
        "95 % intervals. Filled: the axis with all that it does together with others; hollow: "
        "the axis alone.",
        legend=tuple((NAMES[name], NAMES[name]) for name in ranked),
        ticks=ticks_of(scale, "{:.0%}"),
        origin=None,
        groups=(Group("", tuple(lines)),),
    )


def choices_plot(objective: Objective) -> IntervalPlot | None:
    """Return what each choice does instead of its axis's reference; None where nothing is known.

    Axes that drive the quantity most come first; where nothing is ranked, in the space's order.
    """
    changes = [change for change in objective.changes if _values(change)]
    if not changes:
        return None
    name = objective.name
    scale = around([value for change in changes for value in _values(change)])
    order = [share.axis for share in objective.shares]
    axes = sorted(
        dict.fromkeys(change.axis for change in changes),
        key=lambda axis: order.index(axis) if axis in order else len(order),
    )
    groups = []
    for axis in axes:
        mine = [change for change in changes if change.axis == axis]
        heading = f"{axis}: instead of {mine[0].reference}"
        groups.append(Group(heading, tuple(_lines(mine, name, scale))))
    seen = any(change.effect is None for change in changes)
    return IntervalPlot(
        title=f"What each choice does to {NAMES[name]}",
        about="Each choice instead of the one named above it, all else the same: a factor, "
        "the geometric mean over all possible configurations, with its 95 % interval. Left of 1× "
        f"is {_LESS[name][0]}."
        + (
            " Hollow: nothing is predicted, and the mean is that of tried pairs alone."
            if seen
            else ""
        ),
        legend=(),
        ticks=ticks_of(scale, "{:g}×"),
        origin=scale.at(1.0),
        groups=tuple(groups),
    )


def _values(change: ChoiceEffect) -> list[float]:
    if change.effect is not None:
        return [change.effect.low, change.effect.value, change.effect.high]
    return [] if change.seen is None else [change.seen]


def _lines(changes: Sequence[ChoiceEffect], name: str, scale: Scale) -> Iterator[Line]:
    for change in changes:
        if change.effect is not None:
            effect = change.effect
            said = _times(effect.value, name)
            interval = f"{said} (95 %: {_times(effect.high, name)} to {_times(effect.low, name)})"
            one = mark(scale, NAMES[name], interval, effect.value, (effect.low, effect.high))
        else:
            assert change.seen is not None
            said = f"{_times(change.seen, name)} in {len(change.pairs)} pairs"
            one = mark(scale, f"{NAMES[name]} alone", said, change.seen)
        yield Line(str(change.choice), said, (one,))


def _times(ratio: float, name: str) -> str:
    """Return `1.75× faster`, or the other word with the factor turned round."""
    if abs(ratio - 1) < _SAME:
        return "the same"
    less, more = _LESS[name]
    return gain(ratio, less, more)
