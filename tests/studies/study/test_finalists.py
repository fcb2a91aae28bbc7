"""From times taken in turns to verdicts, winners and what is stored of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from optuna.storages import BaseStorage

from objectives.schema.comparison import Comparison, Retimed
from objectives.schema.evaluation import Outcome
from studies.dashboard.front_figures import map_figure
from studies.dashboard.note import summary_note
from studies.export.document import build_export
from studies.report.map_grid import map_grids
from studies.report.rows import workload_sections
from studies.results.candidate import Candidate, candidates, in_turns
from studies.results.front import MOST_FINALISTS, Winner, finalists, front, winners
from studies.results.labels import speed, trial_name
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
    keys = {configured(Workload(), f"{b} bf16 static").key: why for b, why in missing.items()}
    comparison = Comparison(groups=groups, missing=keys, seconds=1.0)
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
    assert key("cudnn") in ties(finals, "flash")
    assert key("math") not in ties(finals, "flash")


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
    assert key("cudnn") in ties(finals, "flash")
    assert key("auto") in ties(finals, "math")
    assert key("math") not in ties(finals, "flash")
    assert finals.missing == {key("efficient"): "no room"}


def turned(finals: FinalistTimings, *found: Candidate) -> list[Candidate]:
    """What was measured, with the latency of the turns for those that were in them."""
    return candidates([(one.number, one.evaluation) for one in found], finals)


def named(finals: FinalistTimings, *found: Candidate) -> Winner:
    return winners(turned(finals, *found), UNIT)["lowest_latency"]


def ties(finals: FinalistTimings, backend: str) -> set[str]:
    one = finals.of(key(backend))
    assert one is not None
    return {*one.same_as, *one.unclear_against}


def test_milliseconds_of_a_finalist_divide_into_its_ratio() -> None:
    # The second group, and every fifth round of it, took longer.
    slow = tuple(retimed(name, ms, 0.3) for name, ms in (("auto", 2.0), ("cudnn", 1.0)))
    finals = judged((retimed("auto", 1.0, 0.2), retimed("flash", 0.5, 0.2)), slow)
    default, *others = finals.finalists
    for one in others:
        assert one.latency_ms / default.latency_ms == pytest.approx(one.latency.ratio)
        assert one.gpu_ms is not None
        assert one.gpu_ms <= one.latency_ms * (1 + 1e-9)


def test_winners_follow_the_turns_and_not_a_lucky_trial() -> None:
    lucky = candidate(0.8, 5, "flex", number=1)  # as it was measured once
    honest = candidate(0.9, 5, "flash", number=2)
    late = candidate(0.85, 4, "cudnn", number=12)  # told after the finalists were timed
    other = candidate(0.81, 9, "math", number=3)  # was no finalist: one of them dominates it
    finals = judged((retimed("auto", 1.0), retimed("flex", 0.99), retimed("flash", 0.9)))
    before = winners([lucky, honest], UNIT)["lowest_latency"]
    after = named(finals, lucky, honest)
    assert (before.candidate.number, after.candidate.number) == (1, 2)
    assert after.ties == ()
    assert named(finals, lucky, honest, other).candidate.number == 2
    assert named(finals, lucky, honest, late, other).candidate.number == 12
    # Where no finalist is admitted, the others are told apart by their trials.
    assert named(finals, other).candidate.number == 3


def test_what_cannot_be_told_apart_is_a_tie_and_the_smaller_is_named() -> None:
    small, large = candidate(1.0, 5, "flex", number=1), candidate(0.9, 6, "eager", number=2)
    finals = judged((retimed("auto", 2.0), retimed("flex", 1.0), retimed("eager", 0.995)))
    won = named(finals, small, large)
    assert (won.candidate.number, [tie.number for tie in won.ties]) == (1, [2])
    assert not won.clear  # another has the least number


def noisy(backend: str, time: float) -> Retimed:
    """Rounds that take up to ten times as long as others."""
    return retimed(backend, time, noise=2.0)


def test_of_what_is_unclear_the_least_number_is_named_and_nothing_slower_than_the_default() -> (
    None
):
    finals = judged((noisy("auto", 1.0), noisy("flex", 1.4), noisy("flash", 1.1)))
    default = candidate(1.0, 9, "auto").evaluation
    found = candidates(
        [
            (None, default),
            (1, candidate(0.8, 5, "flex").evaluation),  # smaller, lucky once
            (2, candidate(0.9, 6, "flash").evaluation),
        ],
        finals,
        in_turns(default, finals),
    )
    assert [one.turns.latency.word for one in found if one.turns] == ["same", "unclear", "unclear"]
    won = winners(found, WorkloadBaseline(9.0, found[0].latency, True))
    least = min(found, key=lambda one: one.latency)
    assert won["lowest_latency"].candidate is least
    assert not won["lowest_latency"].clear
    assert len(won["lowest_latency"].ties) == 2
    for preference in ("lowest_latency", "balanced"):
        assert won[preference].candidate.latency <= found[0].latency
    assert won["lowest_memory"].candidate.number == 1  # memory is its column


def test_of_equal_memory_and_proven_equal_time_the_smaller_error_wins() -> None:
    def exact(backend: str, number: int, error: float) -> Candidate:
        made = candidate(1.0, 5, backend, number=number)
        measured = made.measurements.model_copy(update={"relative_error": error})
        return replace(
            made, evaluation=made.evaluation.model_copy(update={"measurements": measured})
        )

    finals = judged((retimed("auto", 2.0), retimed("eager", 0.995), retimed("flex", 1.0)))
    coarse, fine = exact("eager", 1, 5.6e-3), exact("flex", 2, 7e-4)
    found = turned(finals, coarse, fine)
    won = winners(found, UNIT)
    assert {winner.candidate.number for winner in won.values()} == {2}
    assert [one.number for one in won["balanced"].less_exact] == [1]
    assert front(found) == (won["balanced"].candidate,)
    # About equal errors leave it to the simpler one.
    near = turned(finals, exact("eager", 1, 1.2e-3), fine)
    assert {winner.candidate.number for winner in winners(near, UNIT).values()} == {1}


@pytest.mark.parametrize("rounds", range(1, 10))
def test_few_rounds_make_no_tie_of_what_is_five_times_slower(rounds: int) -> None:
    def slow(backend: str, time: float) -> Retimed:
        times = tuple(time * (1 + 0.01 * (index % 3)) for index in range(rounds))
        whole = retimed(backend, time)
        return whole.model_copy(update={"gpu_ms": times, "host_ms": times})

    finals = judged((slow("auto", 11.0), slow("flash", 10.0), slow("math", 50.0)))
    fast, small = candidate(10.0, 9.0, "flash"), candidate(50.0, 1.0, "math")
    assert named(finals, fast, small).candidate.evaluation.configuration == (
        fast.evaluation.configuration
    )


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
    by_key = {c.key: c for c in again.measured}
    for one in finals.finalists:
        assert by_key[one.variant].latency == one.latency_ms
    assert finals.after_trial == 29
    (exported,) = build_export(read_results(of.study), full=True).workloads
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
        shown[trial_name(winner.number)] = speed(result.latency_ratio(winner))
        if winner.number is not None:
            assert winner.trial_ms == pytest.approx(2 * winner.latency, rel=0.05)
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
