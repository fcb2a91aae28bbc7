"""The verdict: what was found, in tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from objectives.schema.evaluation import Evaluation
from objectives.schema.limits import Limits
from search.views.layout import number_table
from studies.results.front import Candidate, WorkloadResult
from studies.results.labels import (
    duration,
    factor,
    mebibytes,
    milliseconds,
    variant_label,
    workload_label,
)
from studies.results.results import Results
from studies.results.summary import notes, notes_of_study
from studies.space.space import Survey
from studies.study.finalists import Finalist
from studies.study.verdicts import MARGIN
from variants.axes import AXES, Choice

# What a stage of a trial counts as, in the split of a run's time.
_SPLIT = {
    "compile and first steps": ("first step", "second look", "ahead"),
    "measure": ("memory", "latency"),
    "profiler": ("kernels",),
    "finalists in turns": ("finalists",),
    "anchor and roofline": ("anchor", "roofline"),
    "check against reference": ("check", "second check"),
    "build and free": ("build", "free"),
    "search": ("search",),
    "storage": ("storage",),
    "transfer": ("transfer",),
    "worker starts": ("worker start",),
}
_OF_VERDICTS = (
    " verdict: from times taken again, in turns with the default; same: within "
    f"{MARGIN:.0%}, unclear: the 95 % interval does not tell."
)
# Of the above, what a plain loop over the same configurations would not need, or not so much of.
_OWN = ("profiler", "build and free", "search", "storage", "transfer")
_REASONS = 3  # shown for each outcome


def print_space(console: Console, survey: Survey) -> None:
    """Print the axes, the size of the space, and why combinations are missing."""
    table = Table(title="search space", title_justify="left")
    table.add_column("axis")
    table.add_column("choices", overflow="fold")
    for name, choices in survey.space.axes.items():
        what = "" if AXES[name].of_variant else " (workload)"
        table.add_row(f"{name}{what}", ", ".join(map(str, choices)))
    console.print(table)
    missing = sum(survey.impossible.values())
    console.print(
        f"{survey.size + missing} combinations over {len(survey.workloads)} workloads: "
        f"{survey.size} possible, {missing} impossible"
    )
    for reason, count in survey.impossible.most_common():
        console.print(f"  {count:>5}  {reason}", highlight=False)


def print_verdict(console: Console, results: Results) -> None:
    """Print, for each workload, the default against the winners."""
    varying = set(results.plan.space.searched)
    retimed = any(result.finals is not None for result in results.workloads)
    faster = "verdict" if retimed else "faster"
    table = number_table(
        console,
        "verdict: each workload's default against its winners",
        "workload and choice",
        ("latency ms", "gpu ms", faster, "peak MiB", "smaller", "error"),
        words="verdict",
    )
    remarks = []
    for result in results.workloads:
        label = workload_label(result.workload, varying)
        table.add_row(label, style="bold")
        again = result.retimed(result.default.configuration.variant.key)
        table.add_row("  default", *_numbers(result.default, None, again))
        remarks += [f"{label}: {note}" for note in notes(result)]
        for name, winner in result.winners.items():
            table.add_row("  " + name.replace("_", " "), *_winner(winner.candidate, result))
        if result.strict_winners:
            table.add_row(f"  within error {Limits().max_error:g}", style="dim")
        for name, winner in result.strict_winners.items():
            table.add_row("  " + name.replace("_", " "), *_winner(winner.candidate, result))
        table.add_section()
    console.print(table)
    for note in (*remarks, *notes_of_study(results)):
        console.print(note, highlight=False, markup=False)
    console.print(
        "faster, smaller: the default's number divided by the winner's. error: relative, against "
        "a high-precision reference. latency: a step of all layers, the larger of GPU time and "
        "the host's time to enqueue it: where gpu ms is smaller, the GPU waits for the host."
        + (_OF_VERDICTS if retimed else ""),
        style="dim",
    )


def _winner(candidate: Candidate, result: WorkloadResult) -> list[str]:
    cells = _numbers(candidate.evaluation, result, result.retimed(candidate.key))
    if candidate.number is None:
        cells[0] = f"the default ({cells[0]})"
    return cells


def _numbers(
    evaluation: Evaluation, result: WorkloadResult | None, again: Finalist | None = None
) -> list[str]:
    """Return a row's cells; times are those taken in turns where there are such."""
    measured = evaluation.measurements
    variant = evaluation.configuration.variant
    if measured is None:
        return [variant_label(variant), "–", "", "", "–", "", "–"]
    latency, memory = measured.latency.latency_ms, measured.memory.peak_mib
    gpu = None if measured.latency.gpu is None else measured.latency.gpu.value
    baseline = None if result is None else result.baseline
    faster = "" if baseline is None else factor(latency / baseline.latency_ms)
    if again is not None:
        latency, gpu = again.latency_ms, again.gpu_ms
        if result is not None and evaluation is not result.default:
            faster = f"{again.latency.word} {factor(again.latency.ratio)}"
    return [
        variant_label(variant, measured.backend_ran),
        milliseconds(latency),
        "" if gpu is None else milliseconds(gpu),
        faster,
        mebibytes(memory),
        "" if baseline is None else factor(memory / baseline.peak_memory_mib),
        f"{measured.relative_error:.1e}",
    ]


def print_outcomes(console: Console, results: Results) -> None:
    """Print how many trials ended in each outcome, and the commonest reasons."""
    counts = results.outcomes
    told = sum(counts.values())
    table = Table(title=f"outcomes of {told} trials", title_justify="left")
    table.add_column("outcome")
    table.add_column("trials", justify="right")
    table.add_column("commonest reasons", overflow="fold")
    for outcome, count in counts.most_common():
        reasons = results.reasons(outcome)
        lines = [f"{reason} ({n})" for reason, n in reasons[:_REASONS]]
        more = len(reasons) - len(lines)
        table.add_row(
            outcome.value, str(count), "\n".join(lines + [f"… {more} more"] * (more > 0))
        )
    console.print(table)
    if results.abandoned:
        console.print(f"{results.abandoned} more were abandoned by a process that ended")
    for number, earlier in enumerate(results.earlier_environments, 1):
        count = sum(trial.environment == number for trial in results.trials)
        differences = "; ".join(earlier.differences(results.environment))
        defaults = " and the defaults" if number == 1 else ""
        console.print(
            f"warning: {count} trials{defaults} were measured where this differs: {differences}",
            style="yellow",
        )


def print_coverage(
    console: Console,
    coverage: Mapping[str, Mapping[Choice, tuple[int, int]]],
    expected_gains: Sequence[float],
) -> None:
    """Print which part of the space was tried, and what is still expected of the rest."""
    table = Table(title="what was tried of what is possible", title_justify="left")
    table.add_column("axis")
    table.add_column("choice tried/possible", overflow="fold")
    for axis, choices in coverage.items():
        cells = (f"{choice} {tried}/{possible}" for choice, (tried, possible) in choices.items())
        table.add_row(axis, "   ".join(cells))
    console.print(table)
    if expected_gains:
        console.print(
            f"the surrogate expected {expected_gains[-1]:.2%} more hypervolume from the next "
            "trial of each workload, on average"
        )


def print_time(
    console: Console, seconds: Mapping[str, float], wall_s: float, trials: int, devices: int = 1
) -> None:
    """Print where the time of this run went, that of all devices together."""
    title = f"where {duration(wall_s)} went"
    if devices > 1:
        title = f"where {duration(wall_s)} of each of {devices} devices went"
        wall_s *= devices
    table = Table(title=title, title_justify="left")
    for heading in ("part", "time", "share", "ms a trial"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    parts = {
        part: sum(seconds.get(stage, 0.0) for stage in stages) for part, stages in _SPLIT.items()
    }
    parts["everything else"] = max(0.0, wall_s - sum(parts.values()))
    for part, spent in parts.items():
        share = f"{spent / wall_s:.0%}" if wall_s else ""
        each = f"{spent / trials * 1e3:.0f}" if trials else ""
        table.add_row(part, duration(spent), share, each)
    console.print(table)
    if trials:
        own_ms = sum(parts[part] for part in _OWN) / trials * 1e3
        console.print(f"our own time: {own_ms:.0f} ms a trial ({', '.join(_OWN)})")


def print_front(console: Console, result: WorkloadResult, varying: set[str]) -> None:
    """Print the front of one workload, by rising memory."""
    table = number_table(
        console,
        f"front of {workload_label(result.workload, varying)}",
        "trial",
        ("latency ms", "gpu ms", "faster", "peak MiB", "smaller", "error", "roofline"),
        width=len("default"),
    )
    for candidate in result.front:
        number = "default" if candidate.number is None else str(candidate.number)
        roofline = candidate.measurements.roofline
        share = "" if roofline is None else f"{roofline.latency_share:.0%}"
        table.add_row(number, *_numbers(candidate.evaluation, result), share)
    console.print(table)
