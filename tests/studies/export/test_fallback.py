"""Where nothing beats the default, an export chooses it; and it chooses what a target can run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from optuna.storages import InMemoryStorage

from objectives.schema.evaluation import Evaluation, Outcome
from studies.export.document import Admitted, build_export
from studies.export.fallback import beats_default, single_or_default
from studies.export.single import best_single
from studies.results.candidate import candidates, in_turns
from studies.results.front import PREFERENCES, Preference, WorkloadResult, front, winners
from studies.results.results import read_results
from studies.study.finalists import Finalist, FinalistTimings
from studies.study.verdicts import Verdict, Word
from tests.configurations import configured
from tests.fake_bench import measurements
from tests.studies.export.test_single import LONG, SHORT, result
from tests.studies.export.test_verification import OtherBench
from tests.studies.session.test_session import run, session
from variants.workload import Workload


def with_default(of: WorkloadResult) -> WorkloadResult:
    """The same with a default of latency and memory 1 among what was measured."""
    default = Evaluation(
        configuration=configured(of.workload, "auto bf16 concat"),
        outcome=Outcome.MEASURED,
        measurements=measurements(1.0, 1.0),
    )
    told = [(c.number, c.evaluation) for c in of.measured]
    found = candidates([(None, default), *told], default=default)
    return replace(
        of,
        default=default,
        measured=tuple(found),
        front=front(found),
        winners=winners(found, of.baseline),
    )


def one(words: str, latency: float, memory: float, workload: Workload = SHORT) -> WorkloadResult:
    return with_default(result(workload, {words: (latency, memory)}))


@pytest.mark.parametrize(
    ("latency", "memory", "beating"),
    [
        (1.03, 1.0, set()),  # the reported case: 0.97 times as fast
        (1.0, 1.0, set()),
        (1.03, 0.9, {"lowest_memory"}),
        (1.03, 0.98, {"lowest_memory"}),
        (0.9, 1.0, set(PREFERENCES)),
        (0.9, 1.05, {"lowest_latency", "balanced"}),
        (1.0, 0.9, set(PREFERENCES)),
    ],
)
def test_a_choice_beats_the_default_in_what_it_minimises(
    latency: float, memory: float, beating: set[Preference]
) -> None:
    of = one("flash fp16 concat", latency, memory)
    assert {c for c in PREFERENCES if beats_default(of.measured[1], of, c)} == beating
    for choice in PREFERENCES:
        won = of.winners[choice].candidate
        assert won.number == (0 if choice in beating else None)
        single = single_or_default(best_single([of], choice), [of], choice)
        assert single is not None
        chosen = single.candidates[SHORT.key].number
        if choice not in beating or choice == "balanced":  # regrets may tie in one number alone
            assert (chosen is None) == (choice not in beating)


@pytest.mark.parametrize(("word", "memory", "beats"), [("same", 1.0, False), ("same", 0.9, True),
                                                       ("faster", 1.0, True)])  # fmt: skip
def test_what_turns_call_the_same_is_not_faster(word: Word, memory: float, beats: bool) -> None:
    of = one("flash bf16 static", 0.9, memory)
    key = of.measured[1].key
    timed = Finalist(
        variant=key,
        latency_ms=0.99,
        gpu_ms=None,
        host_ms=0.99,
        rounds=9,
        latency=Verdict(word=word, ratio=0.99, low=0.98, high=1.0),
        gpu=None,
        same_as=(),
        unclear_against=(),
    )
    finals = FinalistTimings(
        reference=of.measured[0].key, after_trial=0, finalists=(timed,), missing={}, seconds=0.0
    )
    told = [(c.number, c.evaluation) for c in of.measured]
    found = candidates(told, finals, in_turns(of.default, finals))
    assert beats_default(found[1], replace(of, finals=finals), "lowest_latency") is beats


def test_one_choice_that_wins_on_the_whole_is_kept_where_it_loses() -> None:
    results = [one("flash bf16 static", 0.5, 1.0), one("flash bf16 static", 1.5, 1.0, LONG)]
    single = single_or_default(best_single(results, "lowest_latency"), results, "lowest_latency")
    assert single is not None
    assert single.model.cache == "static"
    results[0] = one("flash bf16 static", 0.9, 1.0)
    single = single_or_default(best_single(results, "lowest_latency"), results, "lowest_latency")
    assert single is not None
    assert single.model.cache == "concat"
    assert all(candidate.number is None for candidate in single.candidates.values())


AXES = {
    "batch": (1,),
    "seq_len": (512,),
    "score_mod": ("none",),
    "backend": ("cudnn", "flash"),
    "precision": ("bf16",),
    "cache": ("static", "concat"),
    "execution": ("eager", "cuda_graph"),
}


@pytest.mark.parametrize("target", ["transformers-captured", "transformers-eager", "own-layer"])
def test_only_what_a_target_can_run_is_chosen_for_it(target: str) -> None:
    of = session(InMemoryStorage(), OtherBench(time=0.5, memory=0.5), axes=AXES)
    run(of, 5)
    results = read_results(of.study)
    document = build_export(results, admitted=Admitted.model_validate({"target": target}))
    (workload,) = document.workloads
    chosen = workload.configurations
    assert all(choice.trial is not None and target in choice.targets for choice in chosen)
    variants = {choice.variant for choice in chosen}
    if target == "transformers-captured":
        assert {(v.backend, v.cache) for v in variants} == {("cudnn", "static")}
    if target == "transformers-eager":
        assert {v.execution for v in variants} == {"eager"}


def test_where_all_lose_the_default_is_exported() -> None:
    of = session(InMemoryStorage(), OtherBench(time=5, memory=5), axes=AXES)
    run(of, 5)
    for admitted in (Admitted(), Admitted(executions=("cuda_graph",))):
        document = build_export(read_results(of.study), admitted=admitted)
        (workload,) = document.workloads
        assert [choice.trial for choice in workload.configurations] == [None]
        assert document.single["balanced"].model.cache == "concat"
