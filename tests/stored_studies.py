"""Studies of several workloads as they are stored: quiet, noisy, and stopped before its end."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

from optuna.storages import InMemoryStorage

from objectives.schema.comparison import Comparison
from objectives.schema.evaluation import Evaluation
from studies.results.results import Results, read_results
from studies.session.session import Session
from tests.fake_bench import FakeBench
from tests.studies.session.test_session import run, session
from variants.axes import Choice
from variants.configuration import Configuration

FOUR: Mapping[str, tuple[Choice, ...]] = {
    "batch": (1, 4),
    "seq_len": (512, 2048),
    "score_mod": ("none",),
}
TRIALS = 40


class NoisyBench(FakeBench):
    """On a machine in use: a trial takes up to ten times as long, and so does each round."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = itertools.count()

    def evaluate(self, configuration: Configuration) -> Evaluation:
        found = super().evaluate(configuration)
        if found.measurements is None:
            return found
        rng = random.Random(next(self._calls))
        was = found.measurements.latency
        slower = 10 ** rng.random()
        gpu = None if was.gpu is None else was.gpu.times(slower)
        host = was.host.times(slower)
        latency = was.model_copy(
            update={
                "latency_ms": was.latency_ms * slower,
                "low_ms": was.latency_ms,
                "high_ms": was.latency_ms * 10,
                "gpu": gpu,
                "host": host,
            }
        )
        measured = found.measurements.model_copy(update={"latency": latency})
        return found.model_copy(update={"measurements": measured})

    def compare(self, configurations: Sequence[Configuration]) -> Comparison:
        said = super().compare(configurations)
        rng = random.Random(next(self._calls))
        groups = []
        for group in said.groups:
            factors = [[10 ** rng.random() for _ in one.gpu_ms] for one in group]
            groups.append(
                tuple(
                    one.model_copy(
                        update={
                            name: tuple(
                                ms * each
                                for ms, each in zip(getattr(one, name), mine, strict=True)
                            )
                            for name in ("gpu_ms", "host_ms")
                        }
                    )
                    for one, mine in zip(group, factors, strict=True)
                )
            )
        return said.model_copy(update={"groups": tuple(groups)})


def quiet() -> Session:
    return _finished(FakeBench())


def noisy() -> Session:
    return _finished(NoisyBench())


def interrupted() -> Session:
    """Stopped after the finalists of the first workload."""
    of = session(InMemoryStorage(), NoisyBench(), axes=FOUR, sampler="random")
    run(of, TRIALS)
    of.retiming.measure(read_results(of.study).workloads[0])
    return of


def one() -> Session:
    """A single workload."""
    return _finished(FakeBench(), FOUR | {"batch": (1,), "seq_len": (512,)})


STUDIES = {"quiet": quiet, "noisy": noisy, "interrupted": interrupted, "one": one}


def _finished(bench: FakeBench, axes: Mapping[str, tuple[Choice, ...]] = FOUR) -> Session:
    of = session(InMemoryStorage(), bench, axes=axes, sampler="random")
    run(of, TRIALS)
    for result in read_results(of.study).workloads:
        of.retiming.measure(result)
    return of


def results_of(name: str) -> tuple[Session, Results]:
    of = STUDIES[name]()
    return of, read_results(of.study)
