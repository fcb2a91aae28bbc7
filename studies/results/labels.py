"""Numbers and names as tables, pages and terminals show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from objectives.schema.evaluation import Evaluation
from studies.study.verdicts import Verdict
from variants.axes import VARIANT_AXES
from variants.variant import Variant
from variants.workload import Workload

_LETTERS = {
    "batch": "b",
    "seq_len": "s",
    "new_tokens": "n",
    "q_heads": "h",
    "kv_heads": "kv",
    "head_dim": "d",
    "hidden_size": "e",
    "layers": "l",
}


def workload_label(workload: Workload, varying: Iterable[str]) -> str:
    """Return a short name that tells workloads of one study apart, `decode b4 s2048 alibi`."""
    parts = [workload.phase.value]
    parts += [
        f"{letter}{getattr(workload, name)}"
        for name, letter in _LETTERS.items()
        if name in varying or name in ("batch", "seq_len")
    ]
    return " ".join([*parts, workload.score_mod])


def variant_label(variant: Variant, ran: str | None = None) -> str:
    """Return `flash bf16 static`; what `auto` resolved to stands behind it."""
    backend = variant.backend
    if ran is not None and ran != backend:
        backend = f"{backend}→{ran}"
    chosen = variant.model_dump(exclude={"backend"}, exclude_none=True)
    said = (VARIANT_AXES[axis].said(choice) for axis, choice in chosen.items())
    return " ".join([backend, *filter(None, said)])


def milliseconds(value: float) -> str:
    """Format milliseconds in three significant digits, `0.0520`."""
    return f"{value:#.3g}" if value < 99.95 else f"{value:.0f}"


def mebibytes(value: float) -> str:
    """Format MiB with one decimal, `40.1`; without from 10,000 on."""
    return f"{value:.1f}" if value < 10_000 else f"{value:.0f}"


def times(value: float) -> str:
    """Return `3.10×`."""
    return f"{multiple(value)}×"


def multiple(value: float) -> str:
    """Return a factor in figures that tell it from none: `0.41`, `0.0043`, `150`."""
    if value < 0.1:
        return f"{value:.2g}"
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def factor(ratio: float, worse: str) -> str:
    """Return how many times less than the default: `3.10×`; where it is more, `1.25× more`.

    Args:
        ratio: To the default's.
        worse: The word for more, such as slower and larger.
    """
    if ratio <= 1 or times(ratio) == times(1.0):
        return times(1 / ratio)
    return f"{times(ratio)} {worse}"


def speed(ratio: float) -> str:
    """Return `1.74×` of a latency that is a share of the default's, or `1.74× slower`."""
    return factor(ratio, "slower")


def size(ratio: float) -> str:
    """Return `1.74×` of a memory that is a share of the default's, or `1.74× larger`."""
    return factor(ratio, "larger")


def gain(ratio: float, better: str, worse: str) -> str:
    """Return `1.75× faster`, or the other word with the factor turned round."""
    if ratio <= 1 or times(ratio) == times(1.0):
        return f"{times(1 / ratio)} {better}"
    return f"{times(ratio)} {worse}"


def interval(verdict: Verdict) -> str:
    """Return how many times as fast, with its 95 % interval: `1.74× (1.72× to 1.76×)`."""
    return f"{speed(verdict.ratio)} ({speed(verdict.high)} to {speed(verdict.low)})"


def first_of(names: Sequence[str], most: int = 3) -> str:
    """Return the first of some names, and how many more there are: `a, b, c and 4 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def percent(share: float) -> str:
    """Return `7.3 %`, or `143 %` without a decimal from 10 % on."""
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """Format seconds as `4 min 12 s`."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def choice_name(preference: str, *, clear: bool = True) -> str:
    """Return what a choice is called; without a clear winner in latency, that."""
    if preference == "lowest_latency" and not clear:
        return "no clear winner"
    return preference.replace("_", " ")


def trial_name(number: int | None) -> str:
    """Return `#4`, by which every output and every option calls a trial."""
    return "default" if number is None else f"#{number}"


def trial_line(evaluation: Evaluation, varying: Iterable[str]) -> str:
    """Format one trial as one line: configuration, numbers, and why it failed."""
    configuration = evaluation.configuration
    ran = None if evaluation.measurements is None else evaluation.measurements.backend_ran
    head = (
        f"{workload_label(configuration.workload, varying)}  "
        f"{variant_label(configuration.variant, ran)}"
    )
    if evaluation.measurements is None:
        return f"{head}  {evaluation.outcome.value}: {evaluation.reason}"
    measured = evaluation.measurements
    numbers = (
        f"{milliseconds(measured.latency.latency_ms)} ms  "
        f"{mebibytes(measured.memory.peak_mib)} MiB  error {measured.relative_error:.1e}"
    )
    failed = f"  {evaluation.outcome.value}: {evaluation.reason}" if evaluation.reason else ""
    return f"{head}  {numbers}{failed}"
