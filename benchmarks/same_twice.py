"""A/A: one configuration, built twice and timed in turns, must be called the same."""

from __future__ import annotations

import random
from collections import Counter

import typer

from benchmarks.cases import Count, Minutes, cases, evaluator, in_a_process, prepared, within
from objectives.timing.compare import take_turns
from studies.study.verdicts import MARGIN, Verdict, judge_rounds


def one_process(number: int, count: int, seconds: float, minutes: float) -> list[Verdict | None]:
    """Return GPU and latency verdicts, one after the other; GPU ones are None on CPU."""
    of = evaluator(seconds)
    rng = random.Random(number)
    chosen = cases(of.device, count)
    rng.shuffle(chosen)
    found: list[Verdict | None] = []
    for configuration in within(chosen, minutes):
        passes = [prepared(of, configuration)[0] for _ in range(2)]
        theirs, ours = take_turns(
            passes, budget_s=2 * seconds, rng=rng, monitor=of.monitor(), cores=of.cores
        )
        gpu = None
        if theirs[0].gpu_ms is not None:
            gpu = judge_rounds([t.gpu_ms or 0 for t in ours], [t.gpu_ms or 0 for t in theirs])
        latency = judge_rounds([t.latency_ms for t in ours], [t.latency_ms for t in theirs])
        found += [gpu, latency]
        shown = latency if gpu is None else gpu
        print(
            f"process {number}  {shown.word:8} {shown.ratio:.4f} "
            f"({shown.low:.4f} to {shown.high:.4f})  latency {latency.word:8} "
            f"{len(ours):3} rounds  {configuration.key}",
            flush=True,
        )
        passes.clear()
        of.free(compiled=False)
    return found


def main(
    count: Count = 50, seconds: float = 1.0, processes: int = 2, minutes: Minutes = 9.0
) -> None:
    """Time each configuration against itself in each of some processes, in shuffled orders."""
    found = []
    for number in range(processes):
        found += in_a_process(one_process, number, count, seconds, minutes / processes)
    for name, verdicts in (("GPU time", found[::2]), ("latency", found[1::2])):
        words = Counter(verdict.word for verdict in verdicts if verdict is not None)
        if words:
            shares = ", ".join(f"{word} {n / words.total():.1%}" for word, n in words.items())
            print(
                f"{name}: {shares} of {words.total()} pairs (margin of equivalence {MARGIN:.0%})"
            )
    print(f"wanted of GPU time: same (within {MARGIN:.0%}) ≥ 98 %, unclear ≤ 10 %")


if __name__ == "__main__":
    typer.run(main)
