"""One configuration at the first and the last place of a fresh process: the same GPU time?"""

from __future__ import annotations

import typer

from benchmarks.cases import Count, Minutes, cases, evaluator, in_a_process, say_spreads, within


def one_process(first: int, count: int, between: int) -> tuple[str, float, float] | None:
    """Return a configuration's time as the first trial of a process and as its last."""
    of = evaluator(0.4)
    chosen = cases(of.device, count)
    subject = chosen[first % len(chosen)]
    others = [c for c in chosen if c != subject][:between]
    times = []
    for configuration in (subject, *others, subject):
        measured = of.evaluate(configuration).measurements
        if configuration == subject and measured is not None:
            times.append((measured.latency.gpu or measured.latency.host).value)
    return None if len(times) != 2 else (subject.key, times[0], times[1])


def main(count: Count = 10, between: int = 20, minutes: Minutes = 9.0) -> None:
    """Put each of `count` configurations first and last, with `between` others in the middle."""
    apart = []
    for number in within(range(count), minutes):
        found = in_a_process(one_process, number, max(count, between + 1), between)
        if found is not None:
            key, first, last = found
            apart.append(abs(first / last - 1))
            print(f"first {first:.4f} ms  last {last:.4f} ms  {first / last - 1:+.2%}  {key}")
    say_spreads("first against last", apart, 0.02, None)


if __name__ == "__main__":
    typer.run(main)
