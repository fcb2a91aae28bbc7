"""One screen of 24 lines and 80 columns, whatever a study holds."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping

import pytest
from optuna.storages import InMemoryStorage

from objectives.schema.evaluation import Outcome
from search.options.shared_options import DEFAULT_STORAGE
from search.views.next_commands import next_commands
from search.views.screen import COLUMNS, LINES, screen_lines
from studies.results.labels import speed
from studies.results.results import Results, read_results
from studies.results.summary import summary
from tests.fake_bench import FakeBench
from tests.stored_studies import NoisyBench
from tests.studies.session.test_session import run, session
from variants.axes import Choice

ONE: Mapping[str, tuple[Choice, ...]] = {
    "batch": (1,),
    "seq_len": (512,),
    "score_mod": ("none",),
}
THIRTY_SIX: Mapping[str, tuple[Choice, ...]] = {
    "batch": (1, 4, 16),
    "seq_len": (512, 2048, 8192),
    "score_mod": ("none", "alibi", "softcap:50", "sliding_window:256"),
}
MANY: Mapping[str, tuple[Choice, ...]] = {
    "batch": tuple(range(1, 13)),
    "seq_len": tuple(range(512, 1024, 64)),
    "score_mod": ("none",),
}
LONG = "sqlite:////home/somebody/a/rather/long/path/to/a/database/of/studies.db"


def found(
    axes: Mapping[str, tuple[Choice, ...]], bench: FakeBench, *, finals: bool = True
) -> Results:
    of = session(InMemoryStorage(), bench, axes=axes, sampler="random", name="a-study")
    run(of, min(60, of.survey.size))
    if finals:
        for result in read_results(of.study).workloads:
            of.retiming.measure(result)
    return read_results(of.study)


@pytest.mark.parametrize("axes", [ONE, THIRTY_SIX, MANY], ids=["1", "36", "96"])
@pytest.mark.parametrize(
    ("bench", "finals"),
    [
        (FakeBench, True),
        (NoisyBench, False),
        (lambda: FakeBench(fails={"auto": Outcome.OUT_OF_MEMORY}), True),
        (lambda: FakeBench(fails={"auto": Outcome.STALLS, "flash": Outcome.CRASHED}), False),
    ],
    ids=["quiet", "noisy and interrupted", "failing", "stalling"],
)
def test_a_screen_holds_it(
    axes: Mapping[str, tuple[Choice, ...]], bench: Callable[[], FakeBench], finals: bool
) -> None:
    results = found(axes, bench(), finals=finals)
    for storage in (DEFAULT_STORAGE, LONG):
        commands = next_commands(results, storage, size=10_000, stopped_at=200)
        lines = screen_lines(results, commands)
        # A command is not cut: a terminal folds it.
        assert sum(max(1, math.ceil(len(line) / COLUMNS)) for line in lines) <= LINES
        assert all(len(line) <= COLUMNS for line in lines if "python -m search" not in line)
        text = " ".join(" ".join(lines).split())
        assert " ".join(summary(results).split()) in text
        shown = [command for command in commands if command in "\n".join(lines)]
        assert shown == commands[: len(shown)]
        assert len(shown) >= 3


@pytest.mark.parametrize("storage", [DEFAULT_STORAGE, LONG])
def test_the_map_has_a_cell_for_each_of_36_workloads(storage: str) -> None:
    results = found(THIRTY_SIX, FakeBench())
    text = "\n".join(screen_lines(results, next_commands(results, storage, size=10_000)))
    assert "more: show --all" not in text
    cells = []
    for result in results.workloads:
        winner = result.winners["balanced"].candidate
        backend = winner.evaluation.configuration.variant.backend
        gained = speed(result.latency_ratio(winner))
        cells.append("default" if winner.number is None else f"{backend[:3]} {gained}")
    shortened = re.sub(r"\b(eag|mat|fla|eff|cud|fle)[a-z]*", r"\1", text)
    for cell, count in Counter(cells).items():
        assert shortened.count(cell) >= count


def test_one_workload_shows_its_choices() -> None:
    results = found(ONE, FakeBench())
    text = "\n".join(screen_lines(results, []))
    for words in ("default", "lowest memory", "balanced", " ms ", " MiB"):
        assert words in text
