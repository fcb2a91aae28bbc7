"""From times taken in turns to verdicts, winners and what is stored of them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from optuna.storages import BaseStorage

from objectives.schema.comparison import Comparison, Retimed
from objectives.schema.evaluation import Outcome
from studies.dashboard.front_figures import map_figure
from studies.dashboard.note import summary_note
from studies.export.document import build_export
from studies.report.map_grid import map_grids
from studies.report.rows import workload_sections
from studies.results.front import MOST_FINALISTS, Candidate, finalists, winners
from studies.results.labels import factor
from studies.results.results import read_results
from studies.study.baseline import WorkloadBaseline
from studies.study.finalists import FinalistTimings, judge_finalists
from tests.configurations import configured
from tests.fake_bench import FakeBench
from tests.studies.results.test_front import candidate
from tests.studies.session.test_session import run, session
from variants.configuration import Configuration
from variants.workload import Workload

UNIT = WorkloadBaseline(1.0, 1.0, True)
ONE = {"batch": (1,), "seq_len": (512,), "score_mod": ("none",)}


def retimed(backend: str, time: float, noise: float = 0.005, *, gpu: bool = True) -> Retimed:
    rng = random.Random(backend)
    times = tuple(time * rng.lognormvariate(0, noise) for _ in range(40))
    return Retimed(
        configuration=configured(Workload(), f"{backend} bf16 static"),
        gpu_ms=times if gpu else (),
        host_ms=tuple(time / 3 for time in times) if gpu else times,
        held=True if gpu else None,
    )


def key(backend: str) -> str:
    return configured(Workload(), f"{backend} bf16 static").variant.key


def judged(*groups: tuple[Retimed, ...], **missing: str) -> FinalistTimings:
    named = {configured(Workload(), f"{b} bf16 static").key: why for b, why in missing.items()}
    comparison = Comparison(groups=groups, missing=named, seconds=1.0)
    return judge_finalists(
        comparison, reference=groups[0][0].configuration.variant.key, after_trial=9
    )


@pytest.mark.parametrize("gpu", [True, False])
def test_verdicts_are_against_the_reference_and_ties_among_all(gpu: bool) -> None:
    times = {"auto": 1.0, "math": 1.0, "flash": 0.5, "cudnn": 0.502, "eager": 1.5}
    finals = judged(tuple(retimed(name, time, gpu=gpu) for name, time in times.items()))
    words = {one.variant: one.latency.word for one in finals.finalists}
    expected = {"auto": "same", "math": "same", "flash": "faster", "cudnn": "faster"}
    assert words == {key(b): word for b, word in (expected | {"eager": "slower"}).items()}
    assert all((one.gpu is None) == (one.gpu_ms is None) == (not gpu) for one in finals.finalists)
    assert finals.tied(key("flash"), key("cudnn"))
    assert not finals.tied(key("flash"), key("math"))
    assert finals.tied(key("flash"), key("efficient")) is None


def test_groups_are_compared_through_the_reference_of_each() -> None:
    # In the second group everything took twice as long.
    finals = judged(
        (retimed("auto", 1.0), retimed("flash", 0.5)),
        (retimed("auto", 2.0), retimed("cudnn", 1.0), retimed("math", 2.0)),
        efficient="no room",
    )
    assert [one.variant for one in finals.finalists] == [
        key(backend) for backend in ("auto", "flash", "cudnn", "math")
    ]
    assert finals.tied(key("flash"), key("cudnn"))
    assert finals.tied(key("math"), key("auto"))
    assert not finals.tied(key("flash"), key("math"))
    assert finals.missing == {key("efficient"): "no room"}


def test_winners_follow_the_turns_and_not_a_lucky_trial() -> None:
    lucky = candidate(0.8, 5, "flex", number=1)  # as it was measured once
    honest = candidate(0.9, 5, "flash", number=2)
    late = candidate(0.85, 4, "cudnn", number=12)  # told after the finalists were timed
    other = candidate(0.81, 9, "math", number=3)  # was no finalist: one of them dominates it
    finals = judged((retimed("auto", 1.0), retimed("flex", 0.99), retimed("flash", 0.9)))
    before = winners([lucky, honest], UNIT)["lowest_latency"]
    after = winners([lucky, honest], UNIT, finals)["lowest_latency"]
    assert (before.candidate, after.candidate) == (lucky, honest)
    assert after.ties == ()
    assert winners([lucky, honest, other], UNIT, finals)["lowest_latency"].candidate is honest
    newest = winners([lucky, honest, late, other], UNIT, finals)["lowest_latency"]
    assert newest.candidate is late
    # Where no finalist is admitted, the others are told apart by their trials.
    assert winners([other], UNIT, finals)["lowest_latency"].candidate is other


def test_what_cannot_be_told_apart_is_a_tie_and_the_smaller_is_named() -> None:
    small, large = candidate(1.0, 5, "flex", number=1), candidate(0.9, 6, "eager", number=2)
    finals = judged((retimed("auto", 2.0), retimed("flex", 1.0), retimed("eager", 0.995)))
    won = winners([small, large], UNIT, finals)["lowest_latency"]
    assert (won.candidate, won.ties) == (small, (large,))


@pytest.mark.parametrize("rounds", range(1, 10))
def test_few_rounds_make_no_tie_of_what_is_five_times_slower(rounds: int) -> None:
    def slow(backend: str, time: float) -> Retimed:
        times = tuple(time * (1 + 0.01 * (index % 3)) for index in range(rounds))
        whole = retimed(backend, time)
        return whole.model_copy(update={"gpu_ms": times, "host_ms": times})

    finals = judged((slow("auto", 11.0), slow("flash", 10.0), slow("math", 50.0)))
    fast, small = candidate(10.0, 9.0, "flash"), candidate(50.0, 1.0, "math")
    assert winners([fast, small], UNIT, finals)["lowest_latency"].candidate is fast


def test_finalists_are_the_default_the_winners_and_the_front(storage: BaseStorage) -> None:
    of = session(storage, axes=ONE)
    run(of, 40)
    (result,) = read_results(of.study).workloads
    chosen = finalists(result)
    assert chosen[0] == result.default
    keys = [each.configuration.key for each in chosen]
    assert len(set(keys)) == len(keys) <= MOST_FINALISTS + 1
    for winner in result.winners.values():
        assert winner.candidate.evaluation in chosen


def test_a_default_that_failed_is_replaced_and_a_lone_one_is_compared_with_nothing(
    storage: BaseStorage,
) -> None:
    of = session(storage, FakeBench(fails={"auto": Outcome.OUT_OF_MEMORY}), axes=ONE)
    run(of, 10)
    (result,) = read_results(of.study).workloads
    assert finalists(result)[0] == result.winners["lowest_latency"].candidate.evaluation
    alone = session(storage, axes=ONE, name="alone")
    run(alone, 0)
    (result,) = read_results(alone.study).workloads
    assert finalists(result) == ()
    assert alone.retiming.measure(result) is None


def test_finals_are_stored_read_back_and_exported(storage: BaseStorage) -> None:
    bench = FakeBench()
    of = session(storage, bench, axes=ONE)
    run(of, 30)
    (result,) = read_results(of.study).workloads
    finals = of.retiming.measure(result)
    assert finals is not None
    assert bench.compared == [[each.configuration.key for each in finalists(result)]]
    (again,) = read_results(of.study).workloads
    assert again.finals == finals
    named = [c.key for c in again.measured if isinstance(c, Candidate)]
    assert {one.variant for one in finals.finalists} <= set(named)
    assert finals.after_trial == 29
    (exported,) = build_export(read_results(of.study)).workloads
    assert exported.finals == finals


class UnluckyTrials(FakeBench):
    """Everything but the default takes half as long in turns as in its trial."""

    def compare(self, configurations: Sequence[Configuration]) -> Comparison:
        said = super().compare(configurations)
        ((default, *others),) = said.groups
        shorter = (
            one.model_copy(
                update={
                    "gpu_ms": tuple(ms / 2 for ms in one.gpu_ms),
                    "host_ms": tuple(ms / 2 for ms in one.host_ms),
                }
            )
            for one in others
        )
        return said.model_copy(update={"groups": ((default, *shorter),)})


def test_pages_say_the_gains_that_the_verdict_does(storage: BaseStorage) -> None:
    of = session(storage, UnluckyTrials(), axes=ONE | {"batch": (1, 4)}, sampler="random")
    run(of, 30)
    for result in read_results(of.study).workloads:
        assert of.retiming.measure(result) is not None
    results = read_results(of.study)
    shown = dict[str, str]()
    for result in results.workloads:
        winner = result.winners["balanced"].candidate
        trial = "default" if winner.number is None else str(winner.number)
        shown[trial] = factor(result.latency_ratio(winner))
        if winner.number is not None:
            assert shown[trial] != factor(winner.latency / result.baseline.latency_ms)
    assert set(shown) != {"default"}
    said = [cells.split(" | ") for cells in summary_note(results).splitlines()]
    in_note = {cells[3]: cells[5] for cells in said if len(cells) > 8}
    rows = [row for section in workload_sections(results) for row in section.verdict]
    cells = [one for grid in map_grids(results) for _, row in grid.rows for one in row if one]
    figure = map_figure(results)
    assert figure is not None
    on_map = [text.split("<br>")[0] for trace in figure.data for row in trace.text for text in row]
    for trial, gain in shown.items():
        assert in_note[trial] == gain
        assert gain in {row.faster for row in rows if row.trial == trial}
        assert gain in {one.faster for one in cells}
        assert gain in on_map
