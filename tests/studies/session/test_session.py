"""The search on a bench that measures nothing: what is proposed, and what is stored."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from contextlib import nullcontext
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import Trial, TrialState

from objectives.schema.evaluation import Evaluation, Outcome
from objectives.schema.limits import Limits
from search.options.choices import choices_from_toml
from studies.results.results import as_table, read_results
from studies.samplers.acquisition import Proposal
from studies.samplers.base import CatalogueSampler
from studies.samplers.goldilocks import GoldilocksSampler
from studies.samplers.observations import Observations
from studies.samplers.optuna_samplers import OPTUNA_SAMPLERS
from studies.samplers.ordered import ORDERS
from studies.samplers.samplers import OWN, SAMPLERS
from studies.session.session import LIKELY, Session, TrialLostError
from studies.session.worker_pool import Worker
from studies.space.defaults import DEFAULT_AXES
from studies.space.presets import preset_path
from studies.space.space import SearchSpace, SpaceExhausted, Survey, fill_defaults, survey
from studies.storage.owner import this_process
from studies.study.attributes import ABANDONED, EVALUATION, OWNER, StudyError
from studies.study.baseline import WorkloadBaseline
from studies.study.opening import open_study
from studies.study.plan import Plan
from studies.study.trials import abandon, ask, finished_trials, tell
from tests.fake_bench import FakeBench
from variants.axes import Choice
from variants.configuration import Configuration
from variants.device import Device

SMALL: Mapping[str, tuple[Choice, ...]] = {"batch": (1, 4), "seq_len": (512,)}


def session(
    storage: BaseStorage,
    bench: FakeBench | None = None,
    *,
    axes: Mapping[str, tuple[Choice, ...]] = SMALL,
    sampler: str = "tpe",
    seed: int = 0,
    name: str | None = "s",
    take_over: bool = False,
) -> Session:
    bench = bench or FakeBench()
    space = fill_defaults(axes, DEFAULT_AXES["cuda"])
    plan = Plan(space=space, limits=Limits(), sampler=sampler, seed=seed)
    study = open_study(storage, name, plan, bench.environment())
    surveyed = survey_of(space.model_dump_json(), bench.device().model_dump_json())
    return Session(study, plan, surveyed, bench, take_over=take_over)


@functools.cache
def survey_of(space: str, device: str) -> Survey:
    """Surveyed once for all sessions of a space; in the larger ones it takes seconds."""
    return survey(SearchSpace.model_validate_json(space), Device.model_validate_json(device))


@pytest.fixture
def memory() -> BaseStorage:
    """Where nothing but the proposals matters: a hundred trials in a database take seconds."""
    return optuna.storages.InMemoryStorage()


def run(of: Session, trials: int) -> list[str]:
    list(of.baselines.measure_missing())
    return [of.trial().configuration.key for _ in range(trials)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_all_proposals_are_possible_new_and_fair_to_workloads(
    memory: BaseStorage, sampler: str
) -> None:
    of = session(memory, sampler=sampler)
    keys = run(of, 60)
    assert len(set(keys)) == 60
    possible = {
        Configuration(workload=workload, variant=variant).key
        for workload in of.survey.workloads
        for variant in of.survey.possible[workload.key]
    }
    assert set(keys) <= possible
    by_workload = Counter(key.split(" ")[0] for key in keys)
    if sampler != "sweep":  # which takes one workload after the other
        assert len(by_workload) == len(of.survey.workloads)
    if sampler in OPTUNA_SAMPLERS:  # goldilocks spends its trials where there is something to gain
        assert max(by_workload.values()) - min(by_workload.values()) <= 1
    states = Counter(trial.state for trial in of.study.trials)
    assert states == {TrialState.COMPLETE: 60}  # no rejected trial is stored


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_small_space_is_swept_and_then_exhausted(memory: BaseStorage, sampler: str) -> None:
    of = session(
        memory, axes={**SMALL, "score_mod": ("none",), "precision": ("bf16",)}, sampler=sampler
    )
    assert (
        of.budget(1000) == of.survey.size == 2 * (6 * 3 + 1 + 5 + 4)
    )  # paged by flex, static by five in a graph, tiles of flex for its steps of one row
    keys = run(of, of.survey.size)
    assert len(set(keys)) == of.survey.size
    with pytest.raises(SpaceExhausted):
        of.trial()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_resumed_run_proposes_what_an_uninterrupted_one_does(
    storage: BaseStorage, sampler: str
) -> None:
    whole = run(session(storage, sampler=sampler, name="whole"), 45)
    parts = []
    for part in (1, 12, 20, 12):
        parts += run(session(storage, sampler=sampler, name="parts"), part)
    assert parts == whole


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_looking_ahead_sees_what_comes_and_changes_nothing(
    memory: BaseStorage, sampler: str
) -> None:
    plain = run(session(memory, sampler=sampler, name="plain"), 24)
    of = session(memory, sampler=sampler, name="looking")
    seen: list[list[str]] = []
    of.on_likely = lambda likely: seen.append([one.key for one in likely])
    assert run(of, 24) == plain
    assert len(seen) == 24
    for number, likely in enumerate(seen):
        assert len(set(likely)) == len(likely) <= LIKELY
        assert not set(likely) & set(plain[: number + 1])
    if sampler in ORDERS:
        assert [likely[0] for likely in seen[:-1]] == plain[1:]
    if sampler == OWN:
        met = sum(key in {k for likely in seen[:n] for k in likely} for n, key in enumerate(plain))
        assert met >= 8


def counted(of: Session, monkeypatch: pytest.MonkeyPatch) -> list[Observations]:
    """Return what proposals are made from, from now on."""
    sampler, made = of.study.sampler, list[Observations]()
    assert isinstance(sampler, GoldilocksSampler)
    propose = sampler.acquisition.propose

    def counting(told: Observations) -> Proposal | None:
        made.append(told)
        return propose(told)

    monkeypatch.setattr(sampler.acquisition, "propose", counting)
    return made


@pytest.fixture
def asked_ahead(
    memory: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> tuple[Session, CatalogueSampler, list[Observations]]:
    """A session of some trials, its sampler, and what proposals are made from, from now on."""
    of = session(memory, sampler=OWN)
    run(of, 4)
    assert isinstance(of.study.sampler, CatalogueSampler)
    return of, of.study.sampler, counted(of, monkeypatch)


def finish(of: Session, trial: Trial) -> None:
    found = FakeBench().evaluate(of.plan.space.configuration(trial.params))
    tell(of.study, trial, found, WorkloadBaseline(1.0, 1.0, True))


def test_a_proposal_that_was_made_ahead_is_the_next_one(
    asked_ahead: tuple[Session, CatalogueSampler, list[Observations]],
) -> None:
    of, sampler, made = asked_ahead
    running = ask(of.study)
    sampler.propose_ahead(of.study)
    assert len(made) == 2
    measured = sampler.catalogue.find(running.params)
    assert made[1].running == {measured}
    finish(of, running)
    following = ask(of.study)
    assert len(made) == 2  # none was made for it
    assert sampler.catalogue.find(following.params) not in made[1].tried
    finish(of, following)
    ask(of.study)
    assert len(made) == 3
    assert made[2].running == frozenset()  # of that one it knows what was found


def test_a_proposal_that_was_made_ahead_is_dropped_where_others_asked_since(
    memory: BaseStorage, asked_ahead: tuple[Session, CatalogueSampler, list[Observations]]
) -> None:
    of, sampler, made = asked_ahead
    sampler.propose_ahead(of.study)
    other = ask(session(memory, sampler=OWN).study)  # in another process: it takes the same
    assert len(made) == 1
    mine = ask(of.study)
    assert len(made) == 2
    assert mine.params != other.params


def test_nothing_is_next_proposal_ahead_where_nothing_is_left(memory: BaseStorage) -> None:
    of = session(memory, axes={**SMALL, "backend": ("flash",), "batch": (1,)}, sampler=OWN)
    run(of, of.survey.size)
    sampler = of.study.sampler
    assert isinstance(sampler, CatalogueSampler)
    sampler.propose_ahead(of.study)
    with pytest.raises(SpaceExhausted):
        of.trial()


@pytest.mark.parametrize("workers", [1, 2])
def test_several_workers_have_the_next_proposal_made_while_they_measure(
    memory: BaseStorage, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = session(memory, sampler=OWN)
    run(of, 4)
    of.workers += [Worker(FakeBench(), f"gpu{number}") for number in range(1, workers)]
    made = counted(of, monkeypatch)
    during: list[int] = []
    evaluate = of.workers[0].bench.evaluate

    def slowly(configuration: Configuration) -> Evaluation:
        end = time.monotonic() + 20
        while workers > 1 and not (of._next_proposal and of._next_proposal.done()):
            assert time.monotonic() < end
            time.sleep(0.001)
        during.append(len(made))
        return evaluate(configuration)

    monkeypatch.setattr(of.workers[0].bench, "evaluate", slowly)
    of.trial()
    assert during == [workers]  # its own, and the next
    of.trial()
    assert during == [workers, workers + 1]


def test_what_goes_wrong_while_the_next_proposal_is_made_is_not_lost(
    memory: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = session(memory, sampler=OWN)
    of.workers.append(Worker(FakeBench(), "gpu1"))
    errors: list[Exception] = [StorageInternalError("away for a moment"), KeyError("a mistake")]

    def fail(study: optuna.Study) -> None:
        raise errors.pop(0)

    monkeypatch.setattr(of._sampler, "propose_ahead", fail)
    run(of, 1)

    def settled() -> None:
        assert of._next_proposal is not None
        wait([of._next_proposal])

    settled()
    of.trial()  # whoever asks finds out what the database does
    settled()
    with pytest.raises(KeyError, match="a mistake"):
        of.trial()


def test_probes_are_seen_ahead(memory: BaseStorage) -> None:
    of = session(memory)  # whose own sampler is not foreseen
    of.add_probes(10)
    seen: list[list[str]] = []
    of.on_likely = lambda likely: seen.append([one.key for one in likely])
    keys = run(of, 11)
    assert seen[0] == keys[1:10]
    assert seen[-1] == []


def test_no_sampler_is_another_one_by_another_name(memory: BaseStorage) -> None:
    proposed = {
        sampler: tuple(run(session(memory, sampler=sampler, name=sampler), 45))
        for sampler in SAMPLERS
    }
    assert len(set(proposed.values())) == len(SAMPLERS)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_axes_that_are_inactive_here_and_active_there_are_searched(
    memory: BaseStorage, sampler: str
) -> None:
    axes = choices_from_toml(preset_path("goldilocks"))
    of = session(memory, axes={**axes, "kv_heads": (4, 16)}, sampler=sampler)
    keys = run(of, 60)
    assert len(set(keys)) == 60
    read = [
        Configuration.model_validate(c.evaluation.configuration) for c in finished_trials(of.study)
    ]
    assert {c.key for c in read} == set(keys)
    if sampler not in ("sweep", "recipe"):  # which have not come to what is elaborate
        assert {None, "same", "int8"} <= {c.variant.kv_dtype for c in read}
        assert {None, "native"} <= {c.variant.gqa for c in read}


def test_other_seeds_propose_otherwise(memory: BaseStorage) -> None:
    one = run(session(memory, name="one"), 20)
    two = run(session(memory, name="two", seed=1), 20)
    assert one != two


def test_tpe_learns_from_failures_as_pruned(memory: BaseStorage) -> None:
    # One backend of six always runs out of memory. Observations as FAIL, TPE would seek it out.
    bench = FakeBench(fails={"math": Outcome.OUT_OF_MEMORY})
    of = session(memory, bench, axes={"seq_len": (512, 1024, 2048, 4096)})
    run(of, 120)
    hits = sum("math/" in key for key in bench.calls[len(of.survey.workloads) :])
    assert hits / 120 < 0.2


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_has_its_state(storage: BaseStorage, outcome: Outcome) -> None:
    backends = ("eager", "math", "flash", "efficient", "cudnn", "flex", "auto")
    of = session(storage, FakeBench(fails=dict.fromkeys(backends, outcome)))
    run(of, 5)
    expected = TrialState.COMPLETE if outcome is Outcome.MEASURED else TrialState.PRUNED
    for trial in of.study.trials:
        assert trial.state is expected
        assert trial.user_attrs["outcome"] == outcome.value
        assert trial.user_attrs.get("reason", "") == ("as planned" if trial.values is None else "")
        assert (trial.values is not None) == (outcome is Outcome.MEASURED)
    assert read_results(of.study).outcomes == {outcome: 5}
    assert [best.state for best in of.study.best_trials] == [TrialState.COMPLETE] * len(
        of.study.best_trials
    )


def test_objectives_are_ratios_to_the_default_of_their_workload(storage: BaseStorage) -> None:
    of = session(storage)
    run(of, 8)
    assert of.study.metric_names == ["peak_memory_vs_default", "latency_vs_default"]
    results = read_results(of.study)
    baselines = {result.workload.key: result.baseline for result in results.workloads}
    for trial, record in zip(of.study.trials, finished_trials(of.study), strict=True):
        measured, baseline = (
            record.evaluation,
            baselines[record.evaluation.configuration.workload.key],
        )
        assert measured.peak_memory_mib is not None
        assert measured.latency_ms is not None
        assert trial.values == pytest.approx(
            [
                measured.peak_memory_mib / baseline.peak_memory_mib,
                measured.latency_ms / baseline.latency_ms,
            ]
        )


def test_one_workload_is_told_raw(storage: BaseStorage) -> None:
    of = session(storage, axes={"batch": (1,), "seq_len": (512,), "score_mod": ("none",)})
    run(of, 3)
    assert of.study.metric_names == ["peak_memory_mib", "latency_ms"]
    evaluation = next(finished_trials(of.study)).evaluation
    assert of.study.trials[0].values == [evaluation.peak_memory_mib, evaluation.latency_ms]


def test_a_failed_default_is_replaced_by_its_roofline(storage: BaseStorage) -> None:
    of = session(storage, FakeBench(fails={"auto": Outcome.OUT_OF_MEMORY}))
    run(of, 8)
    baselines = {r.workload.score_mod: r.baseline for r in read_results(of.study).workloads}
    assert not baselines["none"].measured
    assert baselines["none"].latency_ms > 0
    assert baselines["softcap:50"].measured  # its default is the written-out attention


class Died(BaseException):
    """Stands for the end of the process."""


class DyingBench(FakeBench):
    def evaluate(self, configuration: Configuration) -> Evaluation:
        if len(self.calls) == 11:
            raise Died
        return super().evaluate(configuration)


def test_an_interrupt_abandons_the_trial_in_flight_alone(storage: BaseStorage) -> None:
    whole = run(session(storage, name="whole"), 20)
    of = session(storage, DyingBench())
    with pytest.raises(Died):
        run(of, 20)
    done = [record.evaluation.configuration.key for record in finished_trials(of.study)]
    assert of.study.trials[-1].state is TrialState.FAIL
    assert of.study.trials[-1].user_attrs[ABANDONED] == "interrupted"
    again = session(storage)
    assert done + run(again, 20 - len(done)) == whole


def dead_owner() -> dict[str, object]:
    import socket

    return {"host": socket.gethostname(), "boot": "", "pid": 2**22 + 1, "started_ticks": 0}


def test_a_dead_runs_trial_is_abandoned_and_a_live_ones_is_left_alone(
    storage: BaseStorage,
) -> None:
    of = session(storage)
    run(of, 3)
    dead, alive = of.study.ask(), of.study.ask()
    dead.set_user_attr(OWNER, dead_owner())
    alive.set_user_attr(OWNER, this_process().model_dump())
    assert session(storage).abandoned == 1
    states = [trial.state for trial in of.study.trials[-2:]]
    assert states == [TrialState.FAIL, TrialState.RUNNING]


def test_an_evaluation_that_was_stored_but_not_told_is_told(storage: BaseStorage) -> None:
    of = session(storage)
    run(of, 3)
    trial = ask(of.study)
    evaluation = of.workers[0].bench.evaluate(of.plan.space.configuration(trial.params))
    trial.set_user_attr(EVALUATION, evaluation.model_dump(mode="json"))
    trial.set_user_attr(OWNER, dead_owner())
    assert session(storage).abandoned == 0
    assert of.study.trials[-1].state is TrialState.COMPLETE
    assert of.study.trials[-1].values is not None


@pytest.mark.parametrize("told_first", [True, False])
def test_a_trial_that_is_told_while_it_is_given_up_is_one_of_the_two(
    memory: BaseStorage, monkeypatch: pytest.MonkeyPatch, told_first: bool
) -> None:
    of = session(memory)
    list(of.baselines.measure_missing())
    trial = ask(of.study)
    evaluation = of.workers[0].bench.evaluate(of.plan.space.configuration(trial.params))
    whole: Callable[..., object] = optuna.Study.tell
    givings_up: list[Callable[[], object]] = []

    def finish(
        study: optuna.Study, trial: Trial, values: list[float] | None, state: TrialState
    ) -> None:
        own = functools.partial(whole, study, trial, values, state)
        if state is not TrialState.FAIL:
            for each in [*givings_up, own]:
                each()
            return
        # The reason why it was given up is written, and the state is not.
        if told_first:
            tell(study, trial, evaluation, WorkloadBaseline(1.0, 1.0, True))
            own()
            return
        givings_up.append(own)
        with pytest.raises(UpdateFinishedTrialError):
            tell(study, trial, evaluation, WorkloadBaseline(1.0, 1.0, True))

    monkeypatch.setattr(optuna.Study, "tell", finish)
    with pytest.raises(UpdateFinishedTrialError) if told_first else nullcontext():
        abandon(of.study, trial, "it was silent")
    [found] = of.study.trials
    assert found.state is (TrialState.COMPLETE if told_first else TrialState.FAIL)
    assert found.user_attrs["outcome"] == evaluation.outcome
    assert found.user_attrs[ABANDONED] == "it was silent"
    results = read_results(of.study)
    assert (len(results.trials), results.abandoned) == ((1, 0) if told_first else (0, 1))


def test_what_others_told_for_a_process_is_not_lost_and_what_they_gave_up_is(
    memory: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = session(memory)
    list(of.baselines.measure_missing())

    def others_first(others: Callable[..., None], *args: Any) -> None:
        others(*args)
        tell(*args)

    monkeypatch.setattr("studies.session.session.tell", functools.partial(others_first, tell))
    found = of.trial()
    assert [trial.evaluation for trial in finished_trials(of.study)] == [found]

    def give_up(study: optuna.Study, trial: Trial, *rest: object) -> None:
        abandon(study, trial, "it was silent")

    monkeypatch.setattr("studies.session.session.tell", functools.partial(others_first, give_up))
    with pytest.raises(TrialLostError, match="trial 1 was given up by others"):
        of.trial()
    assert len(list(finished_trials(of.study))) == 1


def test_resume_refuses_another_plan_or_environment_by_name(storage: BaseStorage) -> None:
    session(storage)
    with pytest.raises(StudyError, match="seed: 0 there, 1 here"):
        session(storage, seed=1)
    with pytest.raises(StudyError, match="batch: 1,4 there, 1 here"):
        session(storage, axes={**SMALL, "batch": (1,)})
    with pytest.raises(
        StudyError, match=r"device\.name: NVIDIA H100 80GB HBM3 there, NVIDIA H200"
    ):
        session(storage, FakeBench(profile="h200"))


def test_resume_minds_no_memory_that_grew() -> None:
    here = FakeBench().environment()
    device = here.device.model_copy(update={"memory_bytes": here.device.memory_bytes + 1})
    assert here.differences(here.model_copy(update={"device": device})) == []


def test_studies_get_names_and_foreign_ones_are_left_alone(storage: BaseStorage) -> None:
    optuna.create_study(study_name="attention-1", storage=storage)
    assert session(storage, name=None).study.study_name == "attention-2"
    assert session(storage, name=None).study.study_name == "attention-3"
    with pytest.raises(StudyError, match="not one of this product's"):
        session(storage, name="attention-1")


def test_table_has_a_row_for_each_default_and_trial(storage: BaseStorage) -> None:
    of = session(storage, FakeBench(fails={"math": Outcome.CRASHED}))
    run(of, 30)
    table = as_table(read_results(of.study))
    assert len(table) == 30 + len(of.survey.workloads)
    assert table["trial"].isna().sum() == len(of.survey.workloads)
    crashed = table[table["outcome"] == "CRASHED"]
    assert len(crashed) > 0
    assert crashed["latency_ms"].isna().all()
    assert table[table["outcome"] == "MEASURED"]["latency_ms"].notna().all()


def test_probes_are_added_on_request(storage: BaseStorage) -> None:
    of = session(storage, sampler="tpe")
    run(of, 5)
    sampler = of.study.sampler
    assert isinstance(sampler, CatalogueSampler)
    order = sampler.probe_order.tolist()
    needed = of.add_probes(6)
    run(of, needed)
    found = {sampler.catalogue.find(trial.params) for trial in of.study.trials}
    assert set(order[:6]) <= found
    assert of.add_probes(3) <= 3


def test_coverage_counts_what_was_tried_of_each_choice(storage: BaseStorage) -> None:
    of = session(storage, sampler="goldilocks")
    run(of, 12)
    covered = of.coverage()
    assert sum(tried for tried, _ in covered["batch"].values()) == 12
    assert sum(possible for _, possible in covered["batch"].values()) == of.survey.size
    assert "cache" in covered
    without = session(storage, axes={**SMALL, "phase": ("prefill",)}, name="prefill")
    assert "cache" not in without.coverage()
    gains = of.expected_gains()
    assert len(gains) + 1 >= 12  # of all but a probe
    assert all(gain >= 0 for gain in gains)
