from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from objectives.schema.evaluation import Evaluation, Outcome
from studies.results.candidate import Candidate, candidates
from studies.results.front import front, winners
from studies.results.labels import multiple, speed
from studies.results.summary import exactness
from studies.study.baseline import WorkloadBaseline
from tests.configurations import configured
from tests.fake_bench import measurements
from variants.workload import Workload

BACKENDS = ("eager", "math", "flash", "efficient", "cudnn", "flex")
NUMBERS = st.integers(1, 6).map(float)


def candidate(
    latency: float, memory: float, backend: str = "flash", spread: float = 0.0, number: int = 0
) -> Candidate:
    return Candidate(
        number,
        Evaluation(
            configuration=configured(Workload(), f"{backend} bf16 static"),
            outcome=Outcome.MEASURED,
            measurements=measurements(latency, memory, spread),
        ),
    )


POOLS = st.lists(
    st.builds(candidate, NUMBERS, NUMBERS, st.sampled_from(BACKENDS)), min_size=1, max_size=12
)


@given(POOLS)
def test_front_is_what_brute_force_finds(pool: list[Candidate]) -> None:
    found = {(c.memory, c.latency) for c in front(pool)}
    expected = {
        (c.memory, c.latency)
        for c in pool
        if not any(
            o.memory <= c.memory
            and o.latency <= c.latency
            and (o.memory, o.latency) != (c.memory, c.latency)
            for o in pool
        )
    }
    assert found == expected
    assert len(front(pool)) == len(found)


@given(POOLS)
def test_winners_are_the_best_of_their_kind(pool: list[Candidate]) -> None:
    won = winners(pool, WorkloadBaseline(1.0, 1.0, True))
    assert won["lowest_latency"].candidate.latency == min(c.latency for c in pool)
    assert won["lowest_memory"].candidate.memory == min(c.memory for c in pool)
    balanced = won["balanced"].candidate
    assert balanced.memory * balanced.latency == min(c.memory * c.latency for c in pool)


UNIT = WorkloadBaseline(1.0, 1.0, True)


def test_of_the_same_latencies_the_simplest_wins() -> None:
    fast = candidate(1.00, 5, "flex", spread=0.002)
    simple = candidate(1.01, 5, "math", spread=0.002)
    slow = candidate(2.0, 5, "eager", spread=0.05)
    won = winners([fast, slow, simple], UNIT)["lowest_latency"]
    assert (won.candidate, won.ties, won.clear) == (simple, (fast,), False)


def test_of_such_latencies_the_one_with_least_memory_wins_first() -> None:
    simple = candidate(1.00, 6, "eager", spread=0.002)
    small = candidate(1.01, 5, "flex", spread=0.002)
    won = winners([simple, small], UNIT)["lowest_latency"]
    assert (won.candidate, won.ties) == (small, (simple,))


def test_of_latencies_that_are_unclear_the_least_is_named_as_no_clear_winner() -> None:
    fast = candidate(1.00, 6, "flex", spread=0.2)
    small = candidate(1.15, 5, "math", spread=0.2)
    won = winners([fast, small], UNIT)["lowest_latency"]
    assert (won.candidate, won.ties, won.clear) == (fast, (small,), False)
    assert winners([fast], UNIT)["lowest_latency"].clear


def test_a_trace_less_memory_is_not_bought_with_time() -> None:
    slow, fast = candidate(9.0, 5.000, "math"), candidate(1.0, 5.004, "flash")
    assert winners([slow, fast], UNIT)["lowest_memory"].candidate == fast
    much = candidate(1.0, 5.1, "flash")
    assert winners([slow, much], UNIT)["lowest_memory"].candidate == slow


def test_of_equal_time_and_memory_the_smaller_error_wins_and_that_is_said() -> None:
    def of(backend: str, error: float, latency: float = 1.0) -> Candidate:
        found = candidate(latency, 5, backend, spread=0.002)
        measured = found.measurements.model_copy(update={"relative_error": error})
        evaluation = found.evaluation.model_copy(update={"measurements": measured})
        return replace(found, evaluation=evaluation)

    exact, rough = of("flex", 1e-4, 1.001), of("math", 8e-4)
    won = winners([rough, exact], UNIT)["balanced"]
    assert (won.candidate, won.less_exact) == (exact, (rough,))
    assert exactness(won) == ("flex bf16 static, not math bf16 static", EIGHT)
    about = of("math", 1.5e-4)  # no one's choice: the simpler
    won = winners([about, exact], UNIT)["balanced"]
    assert (won.candidate, exactness(won)) == (about, ("", ""))
    slower = winners([of("math", 8e-4), of("flex", 1e-4, 1.2)], UNIT)["balanced"]
    assert slower.candidate.error == 8e-4


EIGHT = "whose error is 8 times larger"


def test_a_gain_is_never_said_in_hundredths() -> None:
    said = {0.5: "2.00×", 0.0067: "149×", 1.004: "1.00×", 1.25: "1.25× slower", 150: "150× slower"}
    assert {ratio: speed(ratio) for ratio in said} == said
    assert [multiple(value) for value in (0.0041, 0.41, 4.1, 410.0)] == [
        "0.0041",
        "0.41",
        "4.10",
        "410",
    ]


@given(POOLS, NUMBERS, NUMBERS)
def test_what_is_slower_than_the_default_wins_neither_latency_nor_balance(
    pool: list[Candidate], latency: float, memory: float
) -> None:
    default = candidate(latency, memory, "auto").evaluation
    found = candidates(
        [(None, default), *((n, one.evaluation) for n, one in enumerate(pool))], default=default
    )
    won = winners(found, WorkloadBaseline(memory, latency, True))
    for preference in ("lowest_latency", "balanced"):
        assert won[preference].candidate.latency <= latency
    assert won["balanced"].candidate in front(found)


def test_only_measured_ones_are_candidates() -> None:
    good = candidate(1, 1).evaluation
    bad = [good.model_copy(update={"outcome": o}) for o in Outcome if o is not Outcome.MEASURED]
    assert [c.evaluation for c in candidates([(0, good), *((1, b) for b in bad)])] == [good]


def test_nothing_measured_has_no_winner() -> None:
    assert winners([], WorkloadBaseline(1.0, 1.0, True)) == {}
    assert front([]) == ()
