"""The verdict: what was found, in tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from objectives.schema.evaluation import Evaluation
from objectives.schema.limits import Limits
from search.views.layout import number_table
from studies.results.candidate import Candidate, share_of_roofline
from studies.results.facts import facts_beside_notes
from studies.results.front import Preference, Winner, WorkloadResult
from studies.results.labels import (
    choice_name,
    duration,
    first_of,
    mebibytes,
    milliseconds,
    size,
    speed,
    trial_name,
    variant_label,
    workload_label,
)
from studies.results.results import Results
from studies.results.summary import gains, notes
from studies.space.space import Survey
from studies.study.verdicts import MARGIN
from variants.axes import AXES
from variants.axis import Choice, VariantAxis

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
_OF_TURNS = " Numbers of finalists are from times taken again, in turns with the default."
_DOUBTFUL = ("same", "unclear")  # said before a number; the others are the number's own way
# Of the above, what a plain loop over the same configurations would not need, or not so much of.
_OWN = ("profiler", "build and free", "search", "storage", "transfer")
_PARTS = 4  # of a run's time, in a line
_FEW = 4  # workloads of which each has its intervals printed
_REASONS = 3  # shown for each outcome


def print_space(console: Console, survey: Survey, *, all_reasons: bool) -> None:
    """Print the axes, the size of the space, and why combinations are missing."""
    table = Table(title="search space", title_justify="left")
    table.add_column("axis")
    table.add_column("choices", overflow="fold")
    backends = set(survey.space.axes["backend"])
    for name, choices in survey.space.axes.items():
        axis = AXES[name]
        if isinstance(axis, VariantAxis) and axis.backends and not backends & set(axis.backends):
            continue  # of backends that are not searched
        what = "" if axis.of_variant else " (workload)"
        table.add_row(f"{name}{what}", ", ".join(map(str, choices)))
    console.print(table)
    missing = sum(survey.impossible.values())
    reasons = survey.impossible.most_common()
    why = " (--dry-run says why)" if reasons and not all_reasons else ""
    workloads = (
        "1 workload" if len(survey.workloads) == 1 else f"{len(survey.workloads)} workloads"
    )
    console.print(
        f"{survey.size + missing} combinations over {workloads}: "
        f"{survey.size} possible, {missing} impossible{why}"
    )
    for reason, count in reasons if all_reasons else ():
        console.print(f"  {count:>5}  {reason}", highlight=False)


def print_verdict(
    console: Console, results: Results, workloads: Sequence[WorkloadResult] | None = None
) -> None:
    """Print, for each workload or the given ones, the default against the winners."""
    chosen = results.workloads if workloads is None else workloads
    varying = set(results.plan.space.searched)
    retimed = any(result.finals is not None for result in chosen)
    table = number_table(
        console,
        "verdict: each workload's default against its winners",
        "workload and choice",
        ("latency ms", "gpu ms", "faster", "peak MiB", "smaller", "error"),
        words=("faster", "smaller"),
    )
    remarks: dict[str, list[str]] = {}
    for result in chosen:
        label = workload_label(result.workload, varying)
        table.add_row(label, style="bold")
        table.add_row("  default", *_numbers(result.default, None, None))
        said = gains(result) if len(chosen) <= _FEW else ()
        for note in (*said, *notes(result)):
            remarks.setdefault(note, []).append(label)
        _add_winners(table, result, result.winners)
        if result.strict_winners:
            table.add_row(f"  within error {Limits().max_error:g}", style="dim")
            _add_winners(table, result, result.strict_winners)
        table.add_section()
    console.print(table)
    lines = [f"{first_of(labels)}: {note}" for note, labels in remarks.items()]
    for line in (*lines, *facts_beside_notes(results)):
        console.print(line, highlight=False, markup=False)
    console.print(
        "faster, smaller: the default's number divided by the winner's. error: relative, against "
        "a high-precision reference. latency: a step of all layers, the larger of GPU time and "
        "the host's time to enqueue it: where gpu ms is smaller, the GPU waits for the host. "
        f"same: within {MARGIN:.0%}, unclear: the 95 % interval does not tell."
        + (_OF_TURNS if retimed else ""),
        style="dim",
    )


def _add_winners(
    table: Table, result: WorkloadResult, winners: Mapping[Preference, Winner]
) -> None:
    for preference, winner in winners.items():
        cells = _numbers(winner.candidate.evaluation, result, winner.candidate)
        if winner.candidate.number is None:
            cells[0] = f"the default ({cells[0]})"
        table.add_row("  " + choice_name(preference, clear=winner.clear), *cells)


def _numbers(
    evaluation: Evaluation, result: WorkloadResult | None, candidate: Candidate | None
) -> list[str]:
    """Return a row's cells."""
    measured = evaluation.measurements
    variant = evaluation.configuration.variant
    if measured is None:
        return [variant_label(variant), "–", "", "", "–", "", "–"]
    gpu = measured.latency.gpu
    faster = smaller = ""
    if result is not None and candidate is not None:
        faster = speed(result.latency_ratio(candidate))
        smaller = size(result.memory_ratio(candidate))
        verdict = candidate.verdict
        if verdict is not None and candidate.number is not None:
            faster = f"{verdict.word} {faster}" if verdict.word in _DOUBTFUL else faster
    return [
        variant_label(variant, measured.backend_ran),
        milliseconds(measured.latency.latency_ms),
        "" if gpu is None else milliseconds(gpu.value),
        faster,
        mebibytes(measured.memory.peak_mib),
        smaller,
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


def print_changed(console: Console, results: Results) -> None:
    """Print a warning for each environment but the present one that trials were measured in."""
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
    console: Console,
    seconds: Mapping[str, float],
    wall_s: float,
    trials: int,
    devices: int = 1,
    *,
    in_a_line: bool = False,
) -> None:
    """Print where the time of this run went, that of all devices together."""
    title = f"where {duration(wall_s)} went"
    if devices > 1:
        title = f"where {duration(wall_s)} of each of {devices} devices went"
        wall_s *= devices
    parts = {
        part: sum(seconds.get(stage, 0.0) for stage in stages) for part, stages in _SPLIT.items()
    }
    parts["everything else"] = max(0.0, wall_s - sum(parts.values()))
    if in_a_line:
        largest = sorted(parts, key=lambda part: -parts[part])[:_PARTS]
        shares = ", ".join(f"{part} {parts[part] / wall_s:.0%}" for part in largest)
        console.print(f"{title}: {shares}, …", highlight=False, soft_wrap=True)
        return
    table = Table(title=title, title_justify="left")
    for heading in ("part", "time", "share", "ms a trial"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
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
        ("latency ms", "gpu ms", "faster", "peak MiB", "smaller", "error", "of roofline"),
        words=("faster", "smaller"),
        width=len("default"),
    )
    for candidate in result.front:
        share = share_of_roofline(candidate.measurements)
        table.add_row(
            trial_name(candidate.number),
            *_numbers(candidate.evaluation, result, candidate),
            "" if share is None else f"{100 * share:.2g} %",
        )
    console.print(table)
