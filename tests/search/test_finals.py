"""Finalists between the last trial and the verdict, and what the verdict says of them."""

from __future__ import annotations

import io
import re
from collections import Counter

import pytest
from optuna.storages import InMemoryStorage
from rich.console import Console

from search.export_command import print_pick
from search.runner import Interrupt
from search.views.finals import retime_finalists
from search.views.verdict import print_front, print_verdict
from studies.export.document import build_export
from studies.results.labels import milliseconds, speed
from studies.results.results import read_results
from studies.session.session import Session
from tests.fake_bench import FakeBench
from tests.studies.session.test_session import run, session


def console() -> Console:
    return Console(file=io.StringIO(), width=160)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def retime(of: Session, *, interrupted: bool = False) -> str:
    shown = console()
    interrupt = Interrupt(shown)
    interrupt.asked = interrupted
    retime_finalists(shown, of, interrupt)
    return said(shown)


def test_finalists_are_timed_once_until_a_newer_trial_is_measured() -> None:
    bench = FakeBench()
    of = session(InMemoryStorage(), bench, axes={"batch": (1, 4), "seq_len": (512,)})
    run(of, 24)
    workloads = len(of.survey.workloads)
    lines = retime(of).splitlines()
    assert len(lines) == workloads == len(bench.compared)
    assert all("  decode" in line and "rounds" in line for line in lines)
    assert retime(of) == ""
    newest = of.trial().configuration.workload
    assert len(retime(of).splitlines()) == 1
    assert len(bench.compared) == workloads + 1
    assert all(key.startswith(newest.key) for key in bench.compared[-1])


def test_an_interrupt_leaves_the_rest_untimed() -> None:
    bench = FakeBench()
    of = session(InMemoryStorage(), bench, axes={"batch": (1, 4), "seq_len": (512,)})
    run(of, 10)
    assert retime(of, interrupted=True) == ""
    assert bench.compared == []


def test_the_verdict_shows_words_and_how_sure_they_are() -> None:
    of = session(
        InMemoryStorage(), axes={"batch": (1,), "seq_len": (512,), "score_mod": ("none",)}
    )
    run(of, 20)
    before = console()
    print_verdict(before, read_results(of.study))
    retime(of)
    results = read_results(of.study)
    after = console()
    print_verdict(after, results)
    (result,) = results.workloads
    winner = result.winners["lowest_latency"].candidate
    assert winner.turns is not None
    assert "from times taken again" not in said(before)
    assert "from times taken again" in said(after)
    assert milliseconds(winner.turns.latency_ms) in said(after)
    assert speed(winner.turns.latency.ratio) in said(after)


@pytest.mark.parametrize("width", [80, 99, 105])
@pytest.mark.parametrize("finals", [False, True])
def test_in_a_narrow_terminal_no_number_is_cut_and_names_can_be_read(
    width: int, finals: bool
) -> None:
    of = session(InMemoryStorage(), axes={"batch": (1, 64), "seq_len": (512, 65536)})
    run(of, 60)
    if finals:
        retime(of)
    results = read_results(of.study)
    wide, narrow = console(), Console(file=io.StringIO(), width=width)
    for each in (wide, narrow):
        print_verdict(each, results)
        for result in results.workloads:
            print_front(each, result, {"batch", "seq_len"})
        print_pick(each, build_export(results), results)
    assert max(map(len, said(narrow).splitlines())) <= width
    assert "…" not in said(narrow)
    assert said(narrow).count("  lowest latency ") == said(wide).count("  lowest latency ")
    # Where a cell is folded, its words are in the lines below.
    numbers = re.compile(r"\d[\d.]*(?:e-\d\d|×|%)?(?=\s|$)")
    assert Counter(numbers.findall(said(narrow))) >= Counter(
        found for found in numbers.findall(said(wide)) if "×" in found or "e-" in found
    )
