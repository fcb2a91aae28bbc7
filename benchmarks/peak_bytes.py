"""Peak memory in many repeats, in different orders: identical to the byte?"""

from __future__ import annotations

import random
from collections import Counter

import typer

from benchmarks.cases import Count, Minutes, cases, evaluator, within
from variants.configuration import Configuration


def main(count: Count = 10, repeats: int = 200, minutes: Minutes = 9.0) -> None:
    """Weigh `count` configurations in shuffled order until there are `repeats` in all."""
    of = evaluator(0.01)
    rng = random.Random(0)
    chosen = cases(of.device, count)
    order: list[Configuration] = []
    while len(order) < repeats:
        order += rng.sample(chosen, len(chosen))
    peaks: dict[str, Counter[float]] = {}
    for configuration in within(order[:repeats], minutes):
        measured = of.evaluate(configuration).measurements
        if measured is not None:
            found = peaks.setdefault(configuration.key, Counter())
            if found and measured.memory.peak_mib not in found:
                print(f"{measured.memory.peak_mib} MiB, was {dict(found)}  {configuration.key}")
            found[measured.memory.peak_mib] += 1
    total = sum(found.total() for found in peaks.values())
    same = sum(max(found.values()) for found in peaks.values())
    print(f"identical bytes: {same / total:.1%} of {total} repeats of {len(peaks)} configurations")
    print("wanted: ≥ 99 %")


if __name__ == "__main__":
    typer.run(main)
