"""The single choice for all workloads: known answers, and what an export may choose from."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import BaseStorage

from objectives.schema.evaluation import Evaluation, Outcome
from objectives.schema.limits import Limits
from studies.export.document import Admitted, build_export
from studies.export.single import best_single, cost
from studies.results.candidate import Candidate
from studies.results.front import PREFERENCES, WorkloadResult, front, strict, winners
from studies.results.results import read_results
from studies.study.attributes import StudyError
from studies.study.baseline import WorkloadBaseline
from tests.configurations import configured
from tests.fake_bench import measurements
from tests.studies.session.test_session import run, session
from variants.deploy.model_choice import ModelChoice
from variants.workload import Workload

BASELINE = WorkloadBaseline(peak_memory_mib=1.0, latency_ms=1.0, measured=True)


def result(workload: Workload, measured: dict[str, tuple[float, float]]) -> WorkloadResult:
    """Latency and memory by `flash bf16 static`."""
    found = [
        Candidate(
            number,
            Evaluation(
                configuration=configured(workload, words),
                outcome=Outcome.MEASURED,
                measurements=measurements(latency, memory),
            ),
        )
        for number, (words, (latency, memory)) in enumerate(measured.items())
    ]
    default = Evaluation(
        configuration=configured(workload, "auto bf16 concat"), outcome=Outcome.REFUSED
    )
    return WorkloadResult(
        workload=workload,
        default=default,
        baseline=BASELINE,
        measured=tuple(found),
        front=front(found),
        winners=winners(found, BASELINE),
        strict_winners=winners(strict(found, Limits()), BASELINE),
    )


SHORT, LONG = Workload(seq_len=128), Workload(seq_len=4096)
PROMPT = Workload.model_validate({"phase": "prefill", "seq_len": 128})


def test_the_least_mean_regret_wins_and_backends_still_differ() -> None:
    results = [
        result(SHORT, {"math bf16 static": (2.0, 9), "flash fp16 ring": (1.0, 9)}),
        result(
            LONG,
            {
                "math bf16 static": (12.0, 9),
                "flash bf16 static": (10.0, 9),
                "flash fp16 ring": (40.0, 9),
            },
        ),
    ]
    single = best_single(results, "lowest_latency")
    assert single is not None
    assert single.model == ModelChoice(
        precision="bf16", quantization="none", cache="static", kv_dtype="same"
    )
    assert single.regrets == {SHORT.key: 1.0, LONG.key: 0.0}
    assert (single.mean_regret, single.worst_regret) == (0.5, 1.0)
    backends = [c.evaluation.configuration.variant.backend for c in single.candidates.values()]
    assert backends == ["math", "flash"]


def test_what_prefill_lacks_comes_from_decode() -> None:
    results = [
        result(PROMPT, {"flash bf16": (1.0, 9), "math fp32": (3.0, 9)}),
        result(SHORT, {"flash bf16 static": (2.0, 9), "flash bf16 concat": (1.0, 9)}),
    ]
    single = best_single(results, "lowest_latency")
    assert single is not None
    assert single.model.label == ("precision bf16, quantization none, cache concat, kv_dtype same")
    assert single.worst_regret == 0


def test_a_choice_that_was_measured_everywhere_comes_first() -> None:
    results = [
        result(SHORT, {"math fp32 static": (5.0, 9), "flash bf16 static": (1.0, 9)}),
        result(LONG, {"math fp32 static": (5.0, 9)}),
    ]
    single = best_single(results, "balanced")
    assert single is not None
    assert (single.model.precision, single.missing) == ("fp32", ())
    apart = [results[0], result(LONG, {"math fp16 static": (5.0, 9)})]
    single = best_single(apart, "balanced")
    assert single is not None
    assert (single.model.precision, single.missing) == ("bf16", (LONG.key,))
    assert best_single([result(SHORT, {})], "balanced") is None


WORDS = [
    f"{backend} {precision} {cache}"
    for backend, precision, cache in itertools.product(
        ("math", "flash"), ("bf16", "fp16"), ("static", "concat")
    )
]
NUMBERS = st.tuples(st.integers(1, 20), st.integers(1, 20))


@settings(max_examples=50)
@given(st.lists(st.fixed_dictionaries(dict.fromkeys(WORDS, NUMBERS)), min_size=1, max_size=4))
def test_no_other_choice_has_less_mean_regret(tables: list[dict[str, tuple[int, int]]]) -> None:
    results = [
        result(Workload(seq_len=128 * (index + 1)), table) for index, table in enumerate(tables)
    ]
    for choice in PREFERENCES:
        single = best_single(results, choice)
        assert single is not None
        means = []
        for precision, cache in itertools.product(("bf16", "fp16"), ("static", "concat")):
            regrets = []
            for one in results:
                costs = [cost(c, choice, one) for c in one.measured]
                own = [
                    value
                    for c, value in zip(one.measured, costs, strict=True)
                    if (v := c.evaluation.configuration.variant).precision == precision
                    and v.cache == cache
                ]
                regrets.append(min(own) / min(costs) - 1)
            means.append(sum(regrets) / len(regrets))
        assert single.mean_regret == pytest.approx(min(means), abs=1e-9)


def test_an_export_chooses_among_what_is_admitted(storage: BaseStorage) -> None:
    of = session(storage)
    run(of, 60)
    results = read_results(of.study)
    peaks = [c.memory for result in results.workloads for c in result.front]
    limit = Admitted(max_memory_gib=sorted(peaks)[len(peaks) // 2] / 1024, executions=("eager",))
    document = build_export(results, pick="dispatch", prefer="memory", admitted=limit, full=True)
    assert (document.pick, document.prefer) == ("dispatch", "memory")
    chosen = [c for workload in document.workloads for c in workload.configurations]
    assert len(chosen) > len(document.workloads)
    assert limit.max_memory_gib is not None
    for choice in chosen:
        assert choice.measurements.memory.peak_mib <= 1024 * limit.max_memory_gib
        assert choice.variant.execution == "eager"
    for name, single in document.single.items():
        for workload, chosen_one in zip(document.workloads, document.of_single(name), strict=True):
            if chosen_one is None:
                assert workload.workload.key in single.missing or not workload.configurations
                continue
            assert ModelChoice.of(chosen_one.variant) == single.model.at(workload.workload)
    with pytest.raises(StudyError, match="no measured configuration within the limits given"):
        build_export(results, admitted=Admitted(max_memory_gib=1e-6))
