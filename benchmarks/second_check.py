"""What checking the outputs that were timed costs: its share of a trial's seconds."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator

import typer

from benchmarks.cases import Count, Minutes, evaluator, within
from objectives.metrics.accuracy import TimedOutputs
from variants.configuration import Configuration
from variants.device import Device
from variants.support import unsupported_reasons
from variants.workload import Phase, Workload

LIMIT = 0.03  # of a trial
CHECK = "second check"


class _KeptTime:
    """Measures the time in which outputs are kept, between two timed steps."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._keep = TimedOutputs.keep

    def __enter__(self) -> _KeptTime:
        def keep(outputs: TimedOutputs, index: int) -> None:
            before = time.perf_counter()
            self._keep(outputs, index)
            self.seconds += time.perf_counter() - before

        TimedOutputs.keep = keep  # type: ignore[method-assign]
        return self

    def __exit__(self, *error: object) -> None:
        TimedOutputs.keep = self._keep  # type: ignore[method-assign]


def readme_cases(device: Device) -> list[Configuration]:
    """Return configurations like those of the README: all phases, eager and captured."""
    return [c for c in _all(device) if not unsupported_reasons(c, device)]


def _all(device: Device) -> Iterator[Configuration]:
    cuda = device.kind == "cuda"
    precision = "bf16" if cuda else "fp32"
    heads = {"q_heads": 16, "kv_heads": 16, "head_dim": 64}
    sizes = {
        Phase.DECODE: [(8, 4096), (1, 1024)] if cuda else [(1, 1024), (1, 64)],
        Phase.PREFILL: [(8, 4096), (1, 1024)] if cuda else [(1, 512), (1, 64)],
        Phase.TRAIN: [(4, 2048)] if cuda else [(1, 256)],
    }
    for phase, shapes in sizes.items():
        for batch, seq_len in shapes:
            workload = Workload(phase=phase, batch=batch, seq_len=seq_len, **heads)
            for backend in ("flash", "math"):
                for execution in ("eager", "compiled", "cuda_graph"):
                    choices = {"backend": backend, "precision": precision, "execution": execution}
                    for cache in ("static", "concat") if phase is Phase.DECODE else (None,):
                        cached = choices if cache is None else choices | {"cache": cache}
                        yield Configuration.of(workload, cached)


def main(count: Count = 40, minutes: Minutes = 9.0, sampling_s: float = 0.4) -> None:
    """Measure configurations as a run does, and print the second check's share of each."""
    of = evaluator(sampling_s)
    shares: defaultdict[Phase, list[float]] = defaultdict(list)
    for configuration in within(readme_cases(of.device)[:count], minutes):
        with _KeptTime() as kept:
            evaluation = of.evaluate(configuration)
        if CHECK not in evaluation.seconds:
            print(f"{configuration.key}: {evaluation.outcome} {evaluation.reason}", flush=True)
            continue
        whole = sum(evaluation.seconds.values())
        spent = evaluation.seconds[CHECK] + kept.seconds
        shares[configuration.workload.phase].append(spent / whole)
        print(f"{configuration.key}: {spent * 1e3:.1f} ms of {whole:.2f} s, {spent / whole:.2%}")
    for phase, found in shares.items():
        print(
            f"{phase.value}: median {statistics.median(found):.2%}, largest {max(found):.2%} of "
            f"{len(found)} (wanted: every one ≤ {LIMIT:.0%})"
        )


if __name__ == "__main__":
    typer.run(main)
