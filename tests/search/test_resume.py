"""`run --study NAME` of a study that is there: it goes on, or is refused naming what differs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from objectives.schema.environment import Environment
from objectives.schema.evaluation import Evaluation
from search import cli
from studies.study.plan import environments_of
from studies.study.study import load_study, open_storage
from studies.study.trials import finished_trials
from tests.search import fake_cli
from tests.search.test_workers import OtherBench
from variants.configuration import Configuration

SPACE = ("--batch", "1", "--seq-len", "512", "--score-mod", "none", "--sampler", "random")
Command = Callable[..., tuple[int, str, str]]


class ElsewhereBench(fake_cli.CommandBench):
    """On another GPU, with another driver."""

    def __init__(self, limits: object, **more: object) -> None:
        super().__init__(limits, **more)
        self._profile = "h200"

    def environment(self) -> Environment:
        return super().environment().model_copy(update={"driver": "590"})


class SlowerBench(fake_cli.CommandBench):
    """The same by all that it says, and slower."""

    def evaluate(self, configuration: Configuration) -> Evaluation:
        return OtherBench(ratio=1.5).evaluate(configuration)


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Command:
    """Runs a command on fake benches here; returns its status and all that it says."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["search", *words])
        capsys.readouterr()
        status = (fake_cli if words[0] == "run" else cli).main()
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def resume(command: Command, trials: int, *words: str) -> tuple[int, str, str]:
    return command("run", "--study", "s", "--trials", str(trials), *SPACE, *words)


def stored() -> optuna.Study:
    return load_study(open_storage("sqlite:///goldilocks.db"), "s")


def test_another_environment_is_refused_unless_it_is_asked_for(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resume(command, 3)[0] == 0
    here = environments_of(stored())
    monkeypatch.setattr(fake_cli, "CommandBench", ElsewhereBench)
    status, said, errors = resume(command, 5)
    assert (status, errors) == (
        2,
        "error: study s cannot be resumed, these differ: "
        "device.l2_bytes: 52428800 there, 62914560 here; "
        "device.name: NVIDIA H100 80GB HBM3 there, NVIDIA H200 here; "
        "driver: 580 there, 590 here "
        "(--new-environment goes on all the same, and marks the trials)\n",
    )
    assert "verdict" not in said
    assert environments_of(stored()) == here
    assert len(stored().trials) == 3

    status, said, errors = resume(command, 5, "--new-environment")
    assert (status, errors) == (0, "")
    assert "5 trials" in said
    assert [trial.environment for trial in finished_trials(stored())] == [1, 1, 1, 2, 2]
    assert [each.driver for each in environments_of(stored())] == ["580", "590"]
    header, *rows = command("table")[1].splitlines()
    column = header.split(",").index("environment")
    marks = [row.split(",")[column] for row in rows if row.split(",")[column]]
    assert [float(mark) for mark in marks] == [1, 1, 1, 2, 2]
    # It is one of the study's now.
    assert resume(command, 6)[0] == 0
    assert [trial.environment for trial in finished_trials(stored())] == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("anyway", [(), ("--new-environment",)])
def test_another_plan_is_never_resumed(command: Command, anyway: tuple[str, ...]) -> None:
    assert resume(command, 3)[0] == 0
    others = ("--batch", "1,8", "--precision", "bf16", "--seed", "7", "--max-error", "0.5")
    status, _, errors = resume(command, 5, *others, *anyway)
    assert (status, errors) == (
        2,
        "error: study s cannot be resumed, these differ: batch: 1 there, 1,8 here; "
        "precision: fp32,tf32,bf16,fp16 there, bf16 here; seed: 0 there, 7 here; "
        "max_error: 0.01 there, 0.5 here\n",
    )
    assert len(stored().trials) == 3


def test_a_device_that_disagrees_with_the_study_is_let_in_where_that_is_asked_for(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "one")
    assert resume(command, 3)[0] == 0
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    monkeypatch.setattr(fake_cli, "CommandBench", SlowerBench)
    status, said, errors = resume(command, 5)
    assert status == 2
    assert "another cuda is left out: one and the same configuration takes 1.500 times" in said
    assert errors == (
        "error: study s cannot be measured here: no device is left "
        "(--new-environment goes on all the same, and marks the trials)\n"
    )
    assert resume(command, 5, "--new-environment")[0] == 0
    assert len(list(finished_trials(stored()))) == 5
