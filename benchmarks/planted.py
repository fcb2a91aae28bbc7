"""A slowdown of 5 % that is planted in one of two equal configurations must be called slower."""

from __future__ import annotations

import functools
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable

import torch
import typer

from benchmarks.cases import Count, Minutes, cases, evaluator, within
from objectives.timing.compare import Pass, prepare_built, take_turns
from objectives.timing.held_stream import Hold
from objectives.trial.evaluator import Evaluator
from studies.study.verdicts import MARGIN, judge_rounds
from variants.configuration import Configuration
from variants.layer.run import Run


class SlowedRun(Run):
    """A run whose every step does something more at its end."""

    more: Callable[[], None] = staticmethod(lambda: None)

    def step(self, index: int) -> torch.Tensor:
        out = super().step(index)
        self.more()
        return out


def slowed(of: Evaluator, configuration: Configuration, step_ms: float, share: float) -> Pass:
    """Build a configuration whose steps take `share` of `step_ms` longer."""
    run = SlowedRun(configuration, torch.device(of.device.kind), of.seed)
    if of.stream is None:
        run.more = functools.partial(_spin_host, share * step_ms)
    else:
        run.more = functools.partial(torch.cuda._sleep, _cycles(of, share * step_ms))
    return prepare_built(run, of.stream)[0]


def _spin_host(ms: float) -> None:
    end = time.perf_counter_ns() + ms * 1e6
    while time.perf_counter_ns() < end:
        pass


def _cycles(of: Evaluator, more_ms: float) -> int:
    """Return for how many cycles a kernel has to spin to take longer than an empty one."""
    assert of.stream is not None
    stream, hold = of.stream, Hold()

    def takes(cycles: int) -> float:
        step = functools.partial(torch.cuda._sleep, cycles)
        return statistics.median(stream.sample(step, hold)[0] for _ in range(15))

    long = 1_000_000
    return 1 + int(more_ms / (takes(long) - takes(1)) * long)


def main(
    count: Count = 50, share: float = 0.05, seconds: float = 1.0, minutes: Minutes = 9.0
) -> None:
    """Plant the slowdown in one configuration after the other, and judge it."""
    of = evaluator(seconds)
    rng = random.Random(1)
    words: Counter[str] = Counter()
    for configuration in within(cases(of.device, count, seed=1), minutes):
        plain = slowed(of, configuration, 0.0, 0.0)
        turns = [plain() for _ in range(9)]
        step_ms = statistics.median(t.gpu_ms or t.host_ms for t in turns)
        passes = [plain, slowed(of, configuration, step_ms, share)]
        theirs, ours = take_turns(
            passes, budget_s=2 * seconds, rng=rng, monitor=of.monitor(), cores=of.cores
        )
        verdict = judge_rounds(
            [t.gpu_ms or t.host_ms for t in ours], [t.gpu_ms or t.host_ms for t in theirs]
        )
        words[verdict.word] += 1
        print(
            f"{verdict.word:8} {verdict.ratio:.4f} ({verdict.low:.4f} to {verdict.high:.4f})  "
            f"{step_ms:.4f} ms  {len(ours):3} rounds  {configuration.key}",
            flush=True,
        )
        del plain
        passes.clear()
        of.free(compiled=False)
    shares = ", ".join(f"{word} {n / words.total():.1%}" for word, n in words.items())
    print(f"{share:.0%} of GPU time planted, as a spin behind each step (the other's is empty):")
    print(f"{shares} of {words.total()} (margin of equivalence {MARGIN:.0%})")
    print("wanted of 5 %: slower ≥ 95 %, unclear ≤ 10 %")


if __name__ == "__main__":
    typer.run(main)
