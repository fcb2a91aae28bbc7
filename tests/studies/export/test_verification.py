"""Claims of an exported file against a bench that answers as told."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import pytest
from optuna.storages import InMemoryStorage

from objectives.schema.comparison import Comparison
from objectives.schema.evaluation import Evaluation, Measurements, Outcome
from studies.export.document import Export, build_export
from studies.export.verification import (
    CheckedConfiguration,
    check,
    choices_of,
    configurations_of,
    narrower,
    unclear_of,
)
from studies.results.results import read_results
from studies.study.finalists import FinalistTimings, judge_finalists
from tests.fake_bench import FakeBench
from tests.studies.session.test_session import run, session
from variants.configuration import Configuration

ONE = {"batch": (1,), "seq_len": (512,), "score_mod": ("none",)}


class OtherBench(FakeBench):
    """What everything but the default takes changes by factors."""

    def __init__(self, *, time: float = 1.0, memory: float = 1.0, error: float = 1e-3) -> None:
        super().__init__()
        self._time, self._memory, self._error = time, memory, error

    def _answer(self, configuration: Configuration) -> Evaluation:
        found = super()._answer(configuration)
        if found.measurements is None or configuration.variant.backend == "auto":
            return found
        return found.model_copy(update={"measurements": self._changed(found.measurements)})

    def _changed(self, was: Measurements) -> Measurements:
        memory = was.memory.model_copy(update={"peak_mib": was.memory.peak_mib * self._memory})
        latency = was.latency.model_copy(
            update={
                name: getattr(was.latency, name) * self._time
                for name in ("latency_ms", "low_ms", "high_ms")
            }
        )
        return was.model_copy(
            update={"memory": memory, "latency": latency, "relative_error": self._error}
        )


@functools.cache
def exported(*, finals: bool, failing: Outcome = Outcome.MEASURED) -> Export:
    of = session(InMemoryStorage(), FakeBench(fails={"auto": failing}), axes=ONE)
    run(of, 12)
    if finals:
        (result,) = read_results(of.study).workloads
        of.retiming.measure(result)
    return build_export(read_results(of.study))


def verified(document: Export, bench: FakeBench) -> list[CheckedConfiguration]:
    (workload,) = document.workloads
    choices = choices_of(document, workload)
    configurations = configurations_of(workload, choices)
    measured = {each: bench.evaluate(each) for each in configurations}
    turns = judge_finalists(
        bench.compare(configurations),
        reference=workload.default.configuration.variant.key,
        after_trial=-1,
    )
    return check(workload, choices, measured, turns, document.study.limits)


def broken(checked: Sequence[CheckedConfiguration]) -> set[str]:
    return {claim.what for one in checked for claim in one.claims if claim.broken}


@pytest.mark.parametrize("finals", [True, False])
@pytest.mark.parametrize(
    ("changed", "fails"),
    [
        (OtherBench, set()),
        (lambda: OtherBench(time=0.5, memory=0.5), set()),
        (lambda: OtherBench(time=1.012), set()),  # noise and margin allow for it
        (lambda: OtherBench(time=1.3), {"times as fast as the default"}),
        (lambda: OtherBench(memory=1.002), {"peak MiB"}),
        (lambda: OtherBench(error=0.02), {"relative error"}),
    ],
)
def test_each_kind_of_claim_is_found_broken(
    finals: bool, changed: Callable[[], FakeBench], fails: set[str]
) -> None:
    assert broken(verified(exported(finals=finals), changed())) == fails


def test_a_winner_that_fails_breaks_all_it_claimed() -> None:
    document = exported(finals=True)
    (workload,) = document.workloads
    lost = workload.chosen["lowest_latency"].variant.backend
    checked = verified(document, FakeBench(fails={lost: Outcome.OUT_OF_MEMORY}))
    (one,) = [one for one in checked if "lowest_latency" in one.names]
    assert [claim.broken for claim in one.claims] == ["OUT_OF_MEMORY: as planned"] * 3


def test_what_loads_as_the_single_choice_is_checked_too() -> None:
    document = exported(finals=True)
    (workload,) = document.workloads
    only = document.model_copy(
        update={"workloads": (workload.model_copy(update={"choices": {}}),)}
    )
    (single,) = only.of_single("balanced")
    assert single is not None
    lost = single.variant.backend
    checked = verified(only, FakeBench(fails={lost: Outcome.CRASHED}))
    (one,) = [one for one in checked if "single balanced" in one.names]
    assert all(claim.broken for claim in one.claims)
    assert {name for one in checked for name in one.names} == {
        f"single {name}" for name in document.single
    }


def test_each_configuration_is_checked_once_under_all_its_names() -> None:
    document = exported(finals=True)
    (workload,) = document.workloads
    checked = verified(document, FakeBench())
    assert sorted(name for one in checked for name in one.names) == sorted(
        choices_of(document, workload)
    )
    assert len({one.configuration for one in checked}) == len(checked)


def test_where_the_default_failed_latency_itself_is_the_claim() -> None:
    document = exported(finals=True, failing=Outcome.OUT_OF_MEMORY)
    assert broken(verified(document, OtherBench())) == set()
    assert broken(verified(document, OtherBench(time=1.3))) == {"latency ms"}


def test_what_was_not_timed_in_turns_is_not_held_against_the_file() -> None:
    class Alone(FakeBench):
        def compare(self, configurations: Sequence[Configuration]) -> Comparison:
            missing = {each.key: "no room" for each in configurations}
            return Comparison(groups=(), missing=missing, seconds=0.0)

    checked = verified(exported(finals=True), Alone())
    assert broken(checked) == set()
    speed = [claim for one in checked for claim in one.claims if "as fast" in claim.what]
    assert speed
    assert all(claim.new is None and "no room" in claim.what for claim in speed)


class SpreadBench(FakeBench):
    """In turns, everything but the default takes `time` as long, `spread` times more or less."""

    def __init__(self, spread: float, time: float = 1.0) -> None:
        super().__init__()
        self._spread, self._time = spread, time

    def compare(self, configurations: Sequence[Configuration]) -> Comparison:
        said = super().compare(configurations)
        ((default, *others),) = said.groups
        changed = []
        for one in others:
            factors = [self._time * self._spread ** (1 - 2 * (n % 2)) for n in range(40)]
            times = tuple(ms * by for ms, by in zip(one.gpu_ms, factors, strict=True))
            changed.append(one.model_copy(update={"gpu_ms": times, "host_ms": times}))
        return said.model_copy(update={"groups": ((default, *changed),)})


@pytest.mark.parametrize(
    ("spread", "time", "state"),
    [
        (1.001, 1.0, "holds"),
        (1.001, 0.5, "holds"),  # faster than claimed
        (1.001, 1.5, "broken"),
        (1.05, 1.0, "holds"),  # narrow enough, and no worse by itself
        (50.0, 1.0, "unclear"),  # the reported case: from 0.008 to 17 ms
        (50.0, 0.5, "unclear"),
        (1.3, 1.15, "unclear"),
    ],
)
def test_what_an_interval_says_of_a_claim(spread: float, time: float, state: str) -> None:
    checked = verified(exported(finals=True), SpreadBench(spread, time))
    speed = [claim for one in checked for claim in one.claims if "as fast" in claim.what]
    states = {
        "broken" if claim.broken else "unclear" if claim.unclear else "holds" for claim in speed
    }
    assert states == {state}
    assert bool(unclear_of(checked)) is (state == "unclear")


def test_a_machine_that_throttles_breaks_no_claim() -> None:
    document = exported(finals=True)
    backends = {choice.variant.backend for choice in document.workloads[0].configurations}
    throttled = FakeBench(fails=dict.fromkeys(backends - {"auto"}, Outcome.THROTTLED))
    checked = verified(document, throttled)
    assert broken(checked) == set()
    assert len(unclear_of(checked)) == len(checked)


def test_of_two_tries_the_narrower_interval_counts() -> None:
    configurations = configurations_of(
        (workload := exported(finals=True).workloads[0]),
        choices_of(exported(finals=True), workload),
    )

    def turns(spread: float) -> FinalistTimings:
        return judge_finalists(
            SpreadBench(spread).compare(configurations),
            reference=workload.default.configuration.variant.key,
            after_trial=-1,
        )

    wide, tight = turns(50.0), turns(1.001)
    for one, other in ((wide, tight), (tight, wide)):
        found = {each.variant: each.latency for each in narrower(one, other).finalists}
        assert found == {each.variant: each.latency for each in tight.finalists}
