"""The sentence, the map, the history and the command that are read from a study."""

from __future__ import annotations

import itertools
import json
import math
import shlex
from typing import Any

import pytest
from optuna.storages import BaseStorage

from objectives.schema.evaluation import Evaluation, Outcome
from search.options.choices import gather_choices
from studies.dashboard.front_figures import history_figure, map_figure
from studies.results.command import in_lines, run_command
from studies.results.convergence import hypervolume_history
from studies.results.results import read_results
from studies.results.summary import summary
from studies.results.winner_map import winner_maps
from studies.space.space import SearchSpace
from tests.fake_bench import FakeBench, measurements
from tests.studies.session.test_session import run, session
from variants.axes import AXES
from variants.configuration import Configuration

ONE = {
    "batch": (1,),
    "seq_len": (512,),
    "score_mod": ("none",),
    "precision": ("bf16",),
    "cache": ("static",),
    "execution": ("eager",),
}


class TwoNumbers(FakeBench):
    """flash takes half the default's time and a quarter of its memory; others are worse."""

    def evaluate(self, configuration: Configuration) -> Evaluation:
        backend = configuration.variant.backend
        latency, memory = {"auto": (2.0, 40.0), "flash": (1.0, 10.0)}.get(backend, (3.0, 50.0))
        return Evaluation(
            configuration=configuration,
            outcome=Outcome.MEASURED,
            measurements=measurements(latency, memory),
        )


def test_the_sentence_gives_the_balanced_winner_and_its_gains(storage: BaseStorage) -> None:
    of = session(storage, TwoNumbers(), axes=ONE)
    run(of, of.survey.size)
    said = summary(read_results(of.study))
    assert "flash" in said
    assert "2.00× faster and 4.00× smaller in memory" in said
    assert "1.00 ms and 10.0 MiB" in said


def test_the_sentence_admits_that_the_default_was_not_beaten(storage: BaseStorage) -> None:
    of = session(storage, TwoNumbers(), axes={**ONE, "backend": ("math", "eager")})
    run(of, of.survey.size)
    assert "nothing that was tried balances" in summary(read_results(of.study))


def test_the_sentence_of_several_workloads_takes_the_geometric_mean(
    storage: BaseStorage,
) -> None:
    of = session(storage, sampler="random")
    run(of, 24)
    results = read_results(of.study)
    ratios = [
        r.winners["balanced"].candidate.latency / r.baseline.latency_ms for r in results.workloads
    ]
    gain = math.exp(-sum(map(math.log, ratios)) / len(ratios))
    assert f"all {len(ratios)} workloads" in summary(results)
    assert f"{gain:.2f}× faster" in summary(results)


def test_history_rises_to_all_of_the_hypervolume_and_no_trial_lowers_it(
    storage: BaseStorage,
) -> None:
    of = session(storage, FakeBench(fails={"flash": Outcome.CRASHED}), sampler="random")
    run(of, 30)
    results = read_results(of.study)
    history = hypervolume_history(results)
    assert history.mean is not None
    assert len(history.mean.up_to(history.trials)) == 31
    assert history.mean.shares[-1] == pytest.approx(1.0)
    for steps in (history.mean, *history.by_workload.values()):
        assert all(a <= b + 1e-12 for a, b in itertools.pairwise(steps.shares))
    drawn: Any = json.loads(history_figure(results).to_json())
    assert len(drawn["data"]) == len(results.workloads) + 1


def test_history_of_known_numbers(storage: BaseStorage) -> None:
    """The default spans the margin squared; the winner halves one side and quarters the other."""
    of = session(storage, TwoNumbers(), axes=ONE)
    run(of, of.survey.size)
    results = read_results(of.study)
    first = next(
        t.number for t in results.trials if t.evaluation.configuration.variant.backend == "flash"
    )
    history = hypervolume_history(results)
    margin = 0.05
    start = margin**2 / ((margin + math.log10(2)) * (margin + math.log10(4)))
    assert history.mean is not None
    mean = history.mean.up_to(history.trials)
    assert mean[0] == pytest.approx(start)
    assert mean[first] == pytest.approx(start)
    assert mean[first + 1] == pytest.approx(1.0)


def test_the_map_lays_out_batch_and_seq_len_for_each_score_mod(storage: BaseStorage) -> None:
    axes = {"batch": (4, 1), "seq_len": (2048, 512, 1024), "score_mod": ("none", "alibi")}
    of = session(storage, axes=axes)
    run(of, 1)
    results = read_results(of.study)
    maps = winner_maps(results)
    assert [one.title for one in maps] == ["score_mod none", "score_mod alibi"]
    for one in maps:
        assert (one.rows, one.columns) == (("1", "4"), ("512", "1024", "2048"))
        for row, cells in zip(one.rows, one.cells, strict=True):
            for column, cell in zip(one.columns, cells, strict=True):
                assert cell is not None
                assert str(cell.workload.batch) == row
                assert str(cell.workload.seq_len) == column
                assert cell.workload.score_mod in one.title
    figure = map_figure(results)
    assert figure is not None
    assert len(figure.data) == 2


def test_the_map_of_one_length_puts_the_other_axes_in_columns(storage: BaseStorage) -> None:
    axes = {"batch": (1, 4), "seq_len": (512,), "score_mod": ("none", "alibi")}
    of = session(storage, axes=axes)
    run(of, 1)
    (one,) = winner_maps(read_results(of.study))
    assert (one.row_axis, one.column_axis) == ("batch", "score_mod")
    assert (one.rows, one.columns) == (("1", "4"), ("none", "alibi"))


def test_the_command_searches_the_same_space(storage: BaseStorage) -> None:
    axes = {
        "phase": ("decode", "prefill"),
        "batch": (1, 8),
        "score_mod": ("sliding_window:256", "softcap:50"),
        "kv_dtype": ("same", "int8"),
    }
    of = session(storage, axes=axes, seed=7)
    run(of, 3)
    words = run_command(read_results(of.study))
    folded = in_lines(words)
    assert shlex.split(folded.replace("\\\n", " ")) == words
    assert all(len(line) <= 100 for line in folded.splitlines())
    options = dict(zip(words[4::2], words[5::2], strict=True))
    chosen = gather_choices({name: options.get("--" + name.replace("_", "-")) for name in AXES})
    assert SearchSpace(axes={k: tuple(v) for k, v in chosen.items()}) == of.plan.space
    assert (options["--trials"], options["--seed"]) == ("3", "7")
    assert float(options["--max-error"]) == of.plan.limits.max_error
