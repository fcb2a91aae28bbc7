"""What is bounded or read once in large studies is what all of it would have said."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from objectives.schema.evaluation import Outcome
from search.options.choices import choices_from_toml
from studies.dashboard import front_figures as plots
from studies.dashboard.front_figures import front_points, history_figure
from studies.numerics.arrays import evenly_spaced
from studies.numerics.hypervolume import hypervolume
from studies.report import kept
from studies.report.kept import kept_trials
from studies.report.page import render_report
from studies.results import convergence as progress
from studies.results.candidate import Candidate
from studies.results.convergence import hypervolume_history
from studies.results.front import front
from studies.results.results import Results, read_results
from studies.samplers.samplers import make_sampler
from studies.sensitivity import importances, quality
from studies.sensitivity.quality import training_mask
from studies.space.defaults import DEFAULT_AXES
from studies.space.presets import preset_path
from studies.space.space import SearchSpace, fill_defaults, survey
from studies.storage.optuna_internals import storage_of
from studies.study.anchor import AnchorPoint, Drift, DriftMarks
from studies.study.baseline import default_of
from studies.study.counter import TrialCounter, TrialCursor
from studies.study.snapshot import Snapshot
from studies.study.trials import abandon, ask
from tests.fake_bench import FakeBench
from tests.studies.report.test_report import Page
from tests.studies.session.test_session import run, session
from variants import support
from variants.axes import AXES, VARIANT_AXES
from variants.configuration import Configuration
from variants.device import DEVICE_PROFILES, Device
from variants.support import Rule, reasons_by_variant, support_kind, unsupported_reasons
from variants.variant import Variant
from variants.workload import Workload


def test_a_settled_trial_is_handed_out_once(storage: BaseStorage) -> None:
    of = session(storage, sampler="random")
    run(of, 3)
    settled = TrialCursor()
    assert [trial.number for trial in settled.read(of.study)[0]] == [0, 1, 2]
    running, others = ask(of.study), ask(of.study)
    abandon(of.study, others, "no reason")
    new, left = settled.read(of.study)
    assert not new
    assert [trial.number for trial in left] == [3, 4]
    of.study.tell(running, [1.0, 1.0])
    new, left = settled.read(of.study)
    assert [trial.number for trial in new] == [3, 4]
    assert not left


def test_a_tally_counts_what_all_trials_say(storage: BaseStorage) -> None:
    of = session(storage, sampler="random")
    list(of.baselines.measure_missing())
    tally, rng = TrialCounter(of.study), np.random.default_rng(0)
    running = []
    for _ in range(25):
        match rng.integers(3):
            case 0:
                running.append(ask(of.study))
            case 1 if running:
                abandon(of.study, running.pop(rng.integers(len(running))), "no reason")
            case 2 if running:
                of.study.tell(running.pop(rng.integers(len(running))), [1.0, 1.0])
        states = [trial.state for trial in of.study.trials]
        count = tally.read()
        assert count.finished == states.count(TrialState.COMPLETE)
        assert sorted(t.number for t in count.running) == sorted(t.number for t in running)


def test_a_sampler_that_followed_a_study_knows_what_a_new_one_does(storage: BaseStorage) -> None:
    of = session(storage, FakeBench({"math": Outcome.CRASHED}), sampler="goldilocks")
    list(of.baselines.measure_missing())
    early = ask(of.study)  # told last: it keeps all later ones from being settled
    for _ in range(12):
        of.trial()
        fresh = make_sampler("goldilocks", of._sampler.catalogue, lambda: None, 0)
        one, other = of._sampler.observations(of.study), fresh.observations(of.study)
        assert list(one.values.items()) == list(other.values.items())
        assert (one.failed, one.running) == (other.failed, other.running)
        assert sorted(one.indexes.tolist()) == sorted(one.tried)
        assert dict(zip(one.known.tolist(), map(tuple, one.numbers), strict=True)) == one.values
    of.study.tell(early, [1.0, 1.0])
    one = of._sampler.observations(of.study)
    fresh = make_sampler("goldilocks", of._sampler.catalogue, lambda: None, 0)
    assert list(one.values) == list(fresh.observations(of.study).values)
    assert len(one.tried) == 13


def test_an_ask_looks_up_no_trial_that_it_has_seen(
    storage: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = session(storage, sampler="goldilocks")
    run(of, 20)
    catalogue, looked = of._sampler.catalogue, []
    find = type(catalogue).find

    def count(self: Any, params: Any) -> int | None:
        looked.append(params)
        return find(self, params)

    monkeypatch.setattr(type(catalogue), "find", count)
    of.trial()
    assert len(looked) <= 2  # the newest finished one, and the one that is asked for


def test_everything_but_trials_is_read_once(
    storage: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = session(storage, sampler="random")
    run(of, 5)
    reads: list[int] = []
    read = type(storage_of(of.study)).get_study_user_attrs

    def count(self: Any, study_id: int) -> dict[str, Any]:
        reads.append(study_id)
        return read(self, study_id)

    monkeypatch.setattr(type(storage_of(of.study)), "get_study_user_attrs", count)
    results = read_results(of.study)
    assert len(results.workloads) > 1
    assert len(reads) == 1
    again = session(storage, sampler="random")
    reads.clear()
    assert again.baselines.count_missing() == 0
    assert len(reads) == 1
    held = Snapshot.of(of.study)
    for workload in of.survey.workloads:
        assert default_of(held, workload) == default_of(of.study, workload)


@given(st.data())
def test_workloads_of_one_kind_have_the_same_reasons(data: st.DataObject) -> None:
    shapes = st.fixed_dictionaries(
        {
            "phase": st.sampled_from(["decode", "prefill", "train"]),
            "batch": st.sampled_from([1, 2, 16, 17, 64]),
            "seq_len": st.sampled_from([1, 8, 17, 512]),
            "q_heads": st.sampled_from([4, 8]),
            "kv_heads": st.just(4),
            "head_dim": st.sampled_from([40, 64]),
            "score_mod": st.sampled_from(["none", "alibi", "sliding_window:64"]),
        }
    )
    one, other = (Workload.model_validate(data.draw(shapes)) for _ in range(2))
    device = DEVICE_PROFILES[data.draw(st.sampled_from(["h100", "cpu"]))].device
    if data.draw(st.booleans()):
        other = one.model_copy(update={"batch": other.batch, "seq_len": other.seq_len})
    if support_kind(one) != support_kind(other):
        return
    variant = Variant(
        backend=data.draw(st.sampled_from(["math", "flash", "cudnn", "flex"])),
        precision=data.draw(st.sampled_from(["fp32", "bf16"])),
        quantization=data.draw(st.sampled_from(["none", "int8_dynamic", "fp8_dynamic"])),
        cache=data.draw(st.sampled_from(["static", "ring", "paged"])) if one.decodes else None,
        kv_dtype="same" if one.decodes else None,
        gqa="native" if one.grouped else None,
        execution=data.draw(st.sampled_from(["eager", "cuda_graph"])),
    )
    both = (Configuration.model_construct(workload=each, variant=variant) for each in (one, other))
    first, second = (unsupported_reasons(each, device) for each in both)
    assert first == second


@pytest.mark.parametrize("profile", ["h100", "cpu"])
@pytest.mark.parametrize("phase", ["decode", "prefill", "train"])
def test_what_a_rule_said_is_remembered_by_all_that_it_reads(profile: str, phase: str) -> None:
    device = DEVICE_PROFILES[profile].device
    shape = {"batch": 2, "seq_len": 64, "q_heads": 8, "kv_heads": 4, "head_dim": 40}
    space = SearchSpace(axes={name: AXES[name].known or () for name in VARIANT_AXES})
    for score_mod in ("none", "softcap", "sliding_window:16"):
        workload = Workload.model_validate(shape | {"phase": phase, "score_mod": score_mod})
        reasons_of = reasons_by_variant(workload, device)
        variants = list(space.variants(workload))
        Random(0).shuffle(variants)
        for variant in variants[:1500]:
            of = Configuration.model_construct(workload=workload, variant=variant)
            assert reasons_of(variant) == unsupported_reasons(of, device)


def test_a_survey_asks_no_rule_of_every_combination(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Counter[str]()

    def counted(rule: Rule) -> Rule:
        def ask(of: Configuration, device: Device) -> Iterator[str]:
            asked[rule.__name__] += 1
            return rule(of, device)

        return ask

    rules = {counted(rule): axes for rule, axes in support.RULES.items()}
    monkeypatch.setattr(support, "RULES", rules)
    here = DEVICE_PROFILES["h100"].device
    space = fill_defaults(choices_from_toml(preset_path("goldilocks")), DEFAULT_AXES["cuda"])
    found = survey(space, here)
    combinations = found.size + sum(found.impossible.values())
    assert combinations > 50_000
    assert 0 < max(asked.values()) < combinations / 20


def _history_of_all(results: Results) -> dict[str, list[float]]:
    """The shares after each trial, each from all points that were known by then."""
    found = {}
    for result in results.workloads:
        corner = progress._corner(result)
        whole = hypervolume(progress._points(result.measured), corner)
        found[result.workload.key] = [
            hypervolume(
                progress._points(
                    [c for c in result.measured if c.number is None or c.number in numbers]
                ),
                corner,
            )
            / whole
            for numbers in (
                {trial.number for trial in results.trials[:count]}
                for count in range(len(results.trials) + 1)
            )
        ]
    return found


def test_a_history_is_that_of_all_points(
    storage: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = session(storage, FakeBench({"flash": Outcome.CRASHED}), sampler="random")
    run(of, 40)
    results = read_results(of.study)
    history, truth = hypervolume_history(results), _history_of_all(results)
    for key, steps in history.by_workload.items():
        assert list(steps.up_to(40)) == pytest.approx(truth[key])
    assert history.mean is not None
    means = [float(np.mean(row)) for row in zip(*truth.values(), strict=True)]
    assert list(history.mean.up_to(40)) == pytest.approx(means)
    whole: Any = history_figure(results).data
    monkeypatch.setattr(plots, "_MOST_TRIALS", 10)
    thin: Any = history_figure(results).data
    for many, few in zip(whole, thin, strict=True):
        assert len(many.x) == 41
        assert len(few.x) < 41
        assert few.x[-1] == 40
        at = dict(zip(many.x, many.y, strict=True))
        assert [at[x] for x in few.x] == pytest.approx(list(few.y))
        steps = list(itertools.pairwise(zip(few.x, few.y, strict=True)))
        for (begin, share), (end, _) in steps:
            assert all(at[x] == pytest.approx(share) for x in range(begin, end))


def test_of_many_points_an_even_part_is_drawn_and_all_of_every_front(
    storage: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = session(storage, sampler="random")
    run(of, 60)
    results = read_results(of.study)
    fronts = [points for points in front_points(results) if points.front]
    monkeypatch.setattr(plots, "MOST_DRAWN", 20)
    drawn = front_points(results)
    assert [points for points in drawn if points.front] == fronts
    beside = sum(len(points.memory) for points in drawn if not points.front)
    assert beside <= 20 + len(results.workloads)  # each rounds up
    title = plots.front_figure(results).layout.title.text
    assert f"20 of {60 + len(results.workloads)} points" in title


def test_a_page_of_few_trials_has_the_fronts_of_every_choice(
    storage: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = session(storage, FakeBench({"eager": Outcome.CRASHED}), sampler="random")
    run(of, 80)
    results = read_results(of.study)
    assert kept_trials(results) == {trial.number for trial in results.trials}
    monkeypatch.setattr(kept, "MOST_TRIALS", 30)
    numbers = kept_trials(results)
    assert len(numbers) < 80
    for result in results.workloads:
        for axis in Variant.model_fields:
            for hidden in {getattr(_variant(c), axis) for c in result.measured}:
                left = [c for c in result.measured if getattr(_variant(c), axis) != hidden]
                assert _numbers(front(left)) <= numbers
        assert _numbers(result.front) <= numbers
    page = Page(render_report(of.study))
    data = page.json("data")
    on_page = set(data["trials"]["trial"]) - {None}
    assert on_page == numbers
    assert f"Of 80 trials, {len(numbers)} are in this page" in "".join(page.text)


def _variant(candidate: Candidate) -> Variant:
    return candidate.evaluation.configuration.variant


def _numbers(candidates: Sequence[Candidate]) -> set[int]:
    return {c.number for c in candidates if c.number is not None}


@given(st.integers(0, 500), st.integers(1, 60))
def test_an_even_part_is_within_its_bound_and_evenly_spread(count: int, most: int) -> None:
    places = evenly_spaced(count, most)
    assert len(places) == len(set(places)) == min(count, most)
    assert places == sorted(places)
    if places:
        ends = [*places, count]
        assert places[0] == 0
        assert max(b - a for a, b in itertools.pairwise(ends)) <= math.ceil(count / most)


@given(st.permutations(range(60)), st.integers(0, 60))
def test_what_is_learnt_from_is_half_probes(order: list[int], probes: int) -> None:
    known, honest = np.array(order), np.array(sorted(order)[:probes], dtype=np.int64)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(quality, "MOST_LEARNT", 60)
        assert training_mask(known, honest, 1000).all()
        patched.setattr(quality, "MOST_LEARNT", 20)
        assert training_mask(known, honest, 60).all()  # exact: nothing is learnt
        kept = known[training_mask(known, honest, 1000)]
    assert len(kept) <= 20
    assert set(kept) & set(honest) == set(honest[:10])
    assert len(kept) == min(20, min(10, probes) + 60 - probes)


@given(
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from("ab"), st.booleans()), max_size=12),
    st.integers(0, 250),
)
def test_marks_are_those_of_the_anchors_beside(
    taken: list[tuple[int, str, bool]], trial: int
) -> None:
    points = [
        AnchorPoint(before_trial=25 * place, value_ms=1.0, measured_on=device)
        for place, device, _ in sorted(taken)
    ]
    found = [
        Drift(before_trial=25 * place, ratio=1.1 + place / 100, measured_on=device)
        for place, device, drifted in sorted(taken)
        if drifted
    ]
    marks = DriftMarks(points, found)
    for device in "ab":
        places = {point.before_trial for point in points if point.measured_on == device}
        before = max((place for place in places if place <= trial), default=None)
        after = min((place for place in places if place > trial), default=None)
        beside = [
            one
            for one in found
            if one.measured_on == device and one.before_trial in (before, after)
        ]
        assert marks.at(trial, device) == max(beside, key=lambda d: d.ratio, default=None)


def test_importances_of_many_trials_are_of_an_even_part(
    storage: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = session(storage, sampler="random")
    run(of, 50)
    monkeypatch.setattr(importances, "MOST_TRIALS", 25)
    found = importances.optuna_importances(of.study, 0)
    assert [one.trials for one in found] == [25, 25]
    monkeypatch.setattr(importances, "MOST_TRIALS", 50)
    everything = importances.optuna_importances(of.study, 0)
    assert [one.trials for one in everything] == [50, 50]
    assert everything[0].of.keys() == found[0].of.keys()
