"""The samplers as Optuna's: its own contract, foreign trials, other ways to run a study."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase
from optuna.trial import Trial, TrialState

from studies.samplers.ordered import ORDERS
from studies.samplers.samplers import SAMPLERS, make_sampler
from studies.space.catalogue import Catalogue, encode
from studies.space.space import SpaceExhausted
from studies.study.attributes import PROBES
from studies.study.trials import ask

# Two workloads; `size` means nothing where `kind` is "a".
CHOICES = {"batch": (1, 8), "kind": ("a", "b", "c"), "size": (1, 2, 4), "mode": ("x", "y")}


def catalogue() -> Catalogue:
    rows = [
        {"batch": batch, "kind": kind, "mode": mode} | ({} if kind == "a" else {"size": size})
        for batch in (1, 8)
        for kind in ("a", "b", "c")
        for mode in ("x", "y")
        for size in ((1,) if kind == "a" else (1, 2, 4))
    ]
    decided = frozenset({"kind", "size", "mode"})
    return Catalogue(CHOICES, decided, encode(CHOICES, rows), np.repeat([0, 1], len(rows) // 2))


def objective(trial: Trial) -> tuple[float, float]:
    """Use the sampler as any user of Optuna would, without our protocol."""
    batch = trial.suggest_categorical("batch", CHOICES["batch"])
    kind = trial.suggest_categorical("kind", CHOICES["kind"])
    size = 1 if kind == "a" else trial.suggest_categorical("size", CHOICES["size"])
    slow = trial.suggest_categorical("mode", CHOICES["mode"]) == "x"
    assert isinstance(batch, int)
    assert isinstance(size, int)
    return float(batch * size), float(batch * (3 if slow else 1) / size)


@pytest.mark.parametrize("name", ["goldilocks", "tpe", "recipe"])  # one of each class
class TestOptunasContract(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self, name: str) -> Callable[[], BaseSampler]:
        return lambda: make_sampler(name, catalogue(), None, 0)

    @pytest.fixture
    def multi_objective_sampler(self, name: str) -> Callable[[], BaseSampler]:
        return lambda: make_sampler(name, catalogue(), None, 0)


def made(storage: BaseStorage, name: str, seed: int = 0) -> optuna.Study:
    return optuna.create_study(
        study_name="s",
        storage=storage,
        directions=["minimize", "minimize"],
        sampler=make_sampler(name, catalogue(), None, seed),
        load_if_exists=True,
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_optimize_tries_everything_once_and_ends(storage: BaseStorage, name: str) -> None:
    study = made(storage, name)
    with pytest.raises(SpaceExhausted):
        study.optimize(objective, n_trials=100)
    done = [t.params for t in study.trials if t.state is TrialState.COMPLETE]
    assert len({tuple(sorted(params.items())) for params in done}) == len(done) == 28


@pytest.mark.parametrize("name", SAMPLERS)
def test_two_workers_share_the_work(storage: BaseStorage, name: str) -> None:
    # Turn by turn, each with a sampler of its own: what runs elsewhere is left alone.
    one, two = made(storage, name), made(storage, name)
    tried = Counter[int | None]()
    for _ in range(14):
        trials = [ask(one), ask(two)]
        for study, trial in zip((one, two), trials, strict=True):
            tried[catalogue().find(trial.params)] += 1
            study.tell(trial, objective(optuna.trial.FixedTrial(trial.params)))  # type: ignore[arg-type]
    assert len(tried) == 28
    with pytest.raises(SpaceExhausted):
        ask(one)
    assert one.trials[-1].state is TrialState.FAIL


@pytest.mark.parametrize("name", SAMPLERS)
def test_threads_of_one_study_end_with_all_tried(storage: BaseStorage, name: str) -> None:
    study = made(storage, name)
    asking = threading.Lock()

    def work() -> None:
        for _ in range(7):
            with asking:
                trial = ask(study)
            study.tell(trial, objective(optuna.trial.FixedTrial(trial.params)))  # type: ignore[arg-type]

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {catalogue().find(trial.params) for trial in study.trials} == set(range(28))


@pytest.mark.parametrize("name", SAMPLERS)
def test_foreign_trials_are_learnt_from_and_not_repeated(storage: BaseStorage, name: str) -> None:
    study = made(storage, name)
    study.enqueue_trial({"batch": 8, "kind": "b", "size": 2, "mode": "y"})
    # As other tools store it: with a parameter that means nothing here.
    distributions = {
        name: optuna.distributions.CategoricalDistribution(choices)
        for name, choices in CHOICES.items()
    }
    params = {"batch": 1, "kind": "a", "size": 4, "mode": "x"}
    study.add_trial(
        optuna.create_trial(params=params, distributions=distributions, values=[1.0, 3.0])
    )
    study.add_trial(optuna.create_trial(params={}, distributions={}, values=[1.0, 1.0]))
    first = ask(study)
    assert first.params == {"batch": 8, "kind": "b", "size": 2, "mode": "y"}
    study.tell(first, [16.0, 4.0])
    for _ in range(26):
        trial = ask(study)
        assert catalogue().find(trial.params) != catalogue().find(params)
        study.tell(trial, objective(optuna.trial.FixedTrial(trial.params)))  # type: ignore[arg-type]
    with pytest.raises(SpaceExhausted):
        ask(study)


def test_a_trial_that_is_being_named_elsewhere_is_found_once_it_is(storage: BaseStorage) -> None:
    study = made(storage, "random")
    sampler = make_sampler("goldilocks", catalogue(), None, 0)
    params = {"batch": 8, "kind": "b", "size": 2, "mode": "y"}
    study.enqueue_trial(params)
    trial = study.ask()
    for name in params:
        assert sampler.observations(study).running == frozenset()
        trial.suggest_categorical(name, CHOICES[name])  # type: ignore[arg-type]
    index = catalogue().find(params)
    assert sampler.observations(study).running == {index}
    study.tell(trial, [16.0, 4.0])
    told = sampler.observations(study)
    assert told.running == frozenset()
    assert told.values.keys() == {index}


@pytest.mark.parametrize("name", SAMPLERS)
def test_probes_that_are_due_come_first(storage: BaseStorage, name: str) -> None:
    study = made(storage, name)
    study.set_user_attr(PROBES, 6)
    sampler = make_sampler(name, catalogue(), None, 0)
    asked = [catalogue().find(ask(study).params) for _ in range(6)]
    assert set(asked) == set(sampler.probe_order[:6].tolist())


def test_goldilocks_spends_a_share_on_probes(storage: BaseStorage) -> None:
    study = made(storage, "goldilocks")
    sampler = make_sampler("goldilocks", catalogue(), None, 0)
    asked = []
    for _ in range(20):
        trial = ask(study)
        asked.append(catalogue().find(trial.params))
        study.tell(trial, objective(optuna.trial.FixedTrial(trial.params)))  # type: ignore[arg-type]
    assert set(sampler.probe_order[:2].tolist()) <= set(asked)


def test_an_expert_begins_with_fused_half_precision_and_a_graph() -> None:
    choices = {
        "batch": (1, 2),
        "backend": ("math", "flash"),
        "precision": ("fp32", "bf16"),
        "execution": ("eager", "cuda_graph"),
    }
    rows = [
        {"batch": batch, "backend": backend, "precision": precision, "execution": execution}
        for batch in (1, 2)
        for backend in ("math", "flash")
        for precision in ("fp32", "bf16")
        for execution in ("eager", "cuda_graph")
    ]
    of = Catalogue(
        choices, frozenset(choices) - {"batch"}, encode(choices, rows), np.repeat([0, 1], 8)
    )
    order = ORDERS["recipe"](of, 0)
    best = {"backend": "flash", "precision": "bf16", "execution": "cuda_graph"}
    assert [of.params(int(index)) | {"batch": 0} for index in order[:2]] == [
        best | {"batch": 0}
    ] * 2
    assert sorted(order) == list(range(16))
    one_off = [
        sum(of.params(int(index))[name] != choice for name, choice in best.items())
        for index in order
    ]
    assert one_off == sorted(one_off)
