"""A run on several devices at once: they share the trials, and one that is not fit is left out."""

from __future__ import annotations

import io
import re
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from rich.console import Console

from objectives.process.client import ProcessUnavailable
from objectives.process.placement import Placement
from objectives.schema.comparison import Comparison
from objectives.schema.evaluation import Evaluation
from objectives.trial.bench import start_together
from search.runner import Limit, Runner
from studies.session.session import NothingToClaimError, Session
from studies.session.worker_pool import Worker
from studies.space.space import SpaceExhausted
from studies.study.anchor import NEWEST, anchors_of
from studies.study.attributes import ABANDONED, MEASURED_ON, OWNER, StudyError
from studies.study.study import load_study, open_storage
from studies.study.trials import finished_trials
from tests.fake_bench import FakeBench
from tests.search import fake_cli
from tests.studies.session.test_session import session
from variants.configuration import Configuration
from variants.device import Device

ONE = {"batch": (1,), "seq_len": (512,), "score_mod": ("none",)}


class OtherBench(FakeBench):
    """Takes `ratio` times as long as others, and is gone after `lasts` measurements."""

    def __init__(self, *, ratio: float = 1.0, lasts: int | None = None) -> None:
        super().__init__()
        self._ratio, self._lasts = ratio, lasts

    def evaluate(self, configuration: Configuration) -> Evaluation:
        if len(self.calls) == self._lasts:
            raise ProcessUnavailable("the device is gone")
        found = super().evaluate(configuration)
        assert found.measurements is not None
        gpu = found.measurements.latency.gpu
        assert gpu is not None
        slower = gpu.model_copy(update={"value": gpu.value * self._ratio})
        latency = found.measurements.latency.model_copy(update={"gpu": slower})
        measured = found.measurements.model_copy(update={"latency": latency})
        return found.model_copy(update={"measurements": measured})


class MeetingBench(FakeBench):
    """Measures its anchor, its first default and its first trial beside another's."""

    def __init__(self, meeting: threading.Barrier) -> None:
        super().__init__()
        self._meeting, self._met = meeting, set[str]()

    def evaluate(self, configuration: Configuration) -> Evaluation:
        default = "default" if configuration.variant.backend == "auto" else "trial"
        kind = default if self.calls else "anchor"
        if kind not in self._met:
            self._met.add(kind)
            self._meeting.wait(120)
        return super().evaluate(configuration)


def begun(benches: Sequence[FakeBench], storage: InMemoryStorage | None = None) -> Session:
    of = session(storage or InMemoryStorage(), benches[0], sampler="random")
    of.workers[:] = [Worker(bench, f"gpu{place}") for place, bench in enumerate(benches)]
    return of


def run(of: Session, trials: int, *, keep_all_workers: bool = False) -> str:
    said = io.StringIO()
    runner = Runner(Console(file=said, width=200), of, keep_all_workers=keep_all_workers)
    runner.run(Limit(trials))
    return said.getvalue()


def names(of: Session) -> list[str]:
    return [worker.name for worker in of.workers]


class StartingBench(FakeBench):
    """Starts while another does, or fails."""

    def __init__(self, meeting: threading.Barrier, error: Exception | None = None) -> None:
        super().__init__()
        self._meeting, self._error = meeting, error

    def device(self) -> Device:
        self._meeting.wait(timeout=10)
        if self._error is not None:
            raise self._error
        return super().device()


def test_devices_start_at_the_same_time() -> None:
    meeting = threading.Barrier(3)
    gone = StartingBench(meeting, ProcessUnavailable("it is gone"))
    benches = [StartingBench(meeting), gone, StartingBench(meeting)]
    assert start_together(benches) == FakeBench().device()  # of another is said in its turn


def test_what_keeps_the_first_device_from_starting_is_raised() -> None:
    meeting = threading.Barrier(2)
    gone = StartingBench(meeting, ProcessUnavailable("it is gone"))
    with pytest.raises(ProcessUnavailable, match="it is gone"):
        start_together([gone, StartingBench(meeting)])


def test_ctrl_c_while_devices_start_ends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(FakeBench):
        def __init__(self) -> None:
            super().__init__()
            self.ended = threading.Event()

        def device(self) -> Device:
            assert self.ended.wait(30)
            raise ProcessUnavailable("interrupted")

        def interrupt(self) -> None:
            self.ended.set()

    def interrupted(starts: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("objectives.trial.bench.wait", interrupted)
    benches = [Hanging(), Hanging()]
    with pytest.raises(KeyboardInterrupt):
        start_together(benches)
    assert all(bench.ended.is_set() for bench in benches)


@pytest.mark.timeout(300)
def test_workers_share_defaults_and_trials_at_the_same_time() -> None:
    meeting = threading.Barrier(2)
    benches = [MeetingBench(meeting), MeetingBench(meeting)]
    of = begun(benches)
    said = run(of, 41)
    keys = [trial.evaluation.configuration.key for trial in finished_trials(of.study)]
    assert len(keys) == len(set(keys)) == 41
    measured = [key for bench in benches for key in bench.calls]
    anchors = [point.measured_on for point in anchors_of(of.study)]
    assert len(measured) == 41 + len(of.survey.workloads) + len(anchors)  # nothing twice
    assert set(anchors) == {worker.label for worker in of.workers}
    by_post = {trial.user_attrs[MEASURED_ON] for trial in of.study.trials}
    assert by_post == {worker.label for worker in of.workers}
    assert all(text in said for text in ("/41)  gpu0  ", "/41)  gpu1  ", "(41/41)  "))


def test_the_last_trial_of_a_budget_is_given_to_one_until_it_fails() -> None:
    class Asking(FakeBench):
        """While it measures, the other asks."""

        def evaluate(self, configuration: Configuration) -> Evaluation:
            with pytest.raises(NothingToClaimError):
                of.trial(other, budget=1)
            if not self.calls:
                self.calls.append("")
                raise ProcessUnavailable("the device is gone")
            return super().evaluate(configuration)

    of = begun([FakeBench(), FakeBench()])
    list(of.baselines.measure_missing())
    of.workers[0].bench = Asking()
    one, other = of.workers
    with pytest.raises(ProcessUnavailable):
        of.trial(one, budget=1)
    of.trial(one, budget=1)  # it is to be had again
    with pytest.raises(SpaceExhausted):
        of.trial(other, budget=1)
    assert [trial.state for trial in of.study.trials] == [TrialState.FAIL, TrialState.COMPLETE]


@pytest.mark.parametrize("other", [0, 1, 2])
@pytest.mark.parametrize(("ratio", "stays"), [(1.021, False), (1.019, True), (0.979, False)])
def test_a_device_that_disagrees_on_the_anchor_is_left_out_by_name(
    other: int, ratio: float, stays: bool
) -> None:
    benches = [OtherBench(ratio=ratio if place == other else 1.0) for place in range(3)]
    of = begun(benches)
    label = of.workers[other].label
    said = run(of, 10)
    assert (f"gpu{other}" in names(of)) is stays
    assert len(names(of)) == (3 if stays else 2)
    line = f"{label} is left out: one and the same configuration takes {ratio:.3f} times as long"
    assert (line in said) is not stays
    assert of.tried() == 10
    on = {trial.user_attrs[MEASURED_ON] for trial in of.study.trials}
    assert stays or label not in on


class NoisyBench(FakeBench):
    """Takes longer for its first measurement, which is the anchor."""

    def evaluate(self, configuration: Configuration) -> Evaluation:
        slower = OtherBench(ratio=1.0 if self.calls else 1.04).evaluate(configuration)
        super().evaluate(configuration)
        return slower


def test_one_noisy_anchor_leaves_no_device_out() -> None:
    benches = [FakeBench(), NoisyBench()]
    of = begun(benches)
    said = run(of, 8)
    assert "left out" not in said
    assert len(of.workers) == 2
    by_device = [point.measured_on for point in anchors_of(of.study)][:6]
    assert sorted(by_device) == sorted(3 * [worker.label for worker in of.workers])


def test_where_no_device_agrees_with_the_study_nothing_is_measured() -> None:
    storage = InMemoryStorage()
    of = begun([FakeBench()], storage)
    of.workers[0].label = "elsewhere gpu0"
    run(of, 3)
    slower = OtherBench(ratio=1.03)
    with pytest.raises(StudyError, match="study s cannot be measured here: no device is left"):
        run(begun([slower], storage), 6)
    assert len(slower.calls) == NEWEST  # the anchor, in case that one was noise
    run(begun([OtherBench(ratio=1.03)], storage), 6, keep_all_workers=True)
    assert of.tried() == 6


@pytest.mark.parametrize("lasts", [0, 1, 4])
def test_a_device_that_is_gone_is_left_out_and_the_run_goes_on(lasts: int) -> None:
    # The other waits for it, so that it has something to measure when it goes.
    gone = threading.Event()

    class Waiting(FakeBench):
        def evaluate(self, configuration: Configuration) -> Evaluation:
            if self.calls:
                assert gone.wait(120)
            return super().evaluate(configuration)

    class Going(OtherBench):
        def evaluate(self, configuration: Configuration) -> Evaluation:
            try:
                return super().evaluate(configuration)
            except ProcessUnavailable:
                gone.set()
                raise

    of = begun([Going(lasts=lasts), Waiting()])
    said = run(of, 30)
    assert said.count("gpu0 is left out: the device is gone") == 1
    assert names(of) == ["gpu1"]
    assert of.baselines.count_missing() == 0
    keys = [trial.evaluation.configuration.key for trial in finished_trials(of.study)]
    assert len(keys) == len(set(keys)) == 30
    failed = of.study.get_trials(states=(TrialState.FAIL, TrialState.RUNNING))
    assert [trial.user_attrs[ABANDONED] for trial in failed] == ["interrupted"] * len(failed)
    assert len(failed) <= 1


def test_without_the_last_device_the_run_ends() -> None:
    of = begun([OtherBench(lasts=12), OtherBench(lasts=12)])
    with pytest.raises(ProcessUnavailable, match="the device is gone"):
        run(of, 30)
    assert of.tried() > 0
    assert not of.study.get_trials(states=(TrialState.RUNNING,))


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command on fake benches here; returns its status and all that it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["search", "run", *words])
        capsys.readouterr()
        status = fake_cli.main()
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


SPACE = ("--study", "s", "--device", "cpu", "--batch", "1", "--seq-len", "512")


def test_the_command_with_two_workers(
    command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    placements = []

    class Placed(fake_cli.CommandBench):
        def __init__(
            self, limits: object, *, placement: Placement, device: object, **more: object
        ) -> None:
            super().__init__(limits, placement=placement, device=device, **more)
            placements.append((placement.name, placement.cores, device))

        def compare(self, configurations: Sequence[Configuration]) -> Comparison:
            return super().compare(configurations).model_copy(update={"seconds": 600.0})

    monkeypatch.setattr(fake_cli, "CommandBench", Placed)
    words = (*SPACE, "--workers", "2", "--trials", "21", "--sampler", "random")
    status, said, errors = command(*words)
    assert (status, errors) == (0, "")
    assert placements == [("cpu:0-1", (0, 1), "cpu"), ("cpu:2-3", (2, 3), "cpu")]
    assert "budget spent: 21 trials" in said
    assert "finalists" in said
    # By the clock, and not the sum of what devices took at the same time.
    assert re.search(r"where [\d.]+ s of each of 2 devices went", said)
    study = load_study(open_storage(f"sqlite:///{tmp_path / 'goldilocks.db'}"), "s")
    keys = [trial.evaluation.configuration.key for trial in finished_trials(study)]
    assert len(keys) == len(set(keys)) == len(study.trials) == 21
    on = {point.measured_on.split()[1] for point in anchors_of(study)}
    assert on == {"cpu:0-1", "cpu:2-3"}
    # One more goes on where two were.
    assert command(*SPACE, "--trials", "24")[0] == 0
    assert len(list(finished_trials(study))) == 24


def test_the_command_on_a_file_of_another_host(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    words = (*SPACE, "--sampler", "random", "--trials")
    assert command(*words, "3")[0] == 0
    study = load_study(open_storage(f"sqlite:///{tmp_path / 'goldilocks.db'}"), "s")
    there = {"host": "gpu2", "boot": "another", "pid": 7, "started_ticks": 7}
    study.ask().set_user_attr(OWNER, there)
    status, _, errors = command(*words, "6")
    assert status == 2
    assert errors.startswith("error: study s is measured on another host, gpu2 (trial 3, begun ")
    assert errors.count("\n") == 1
    status, said, _ = command(*words, "6", "--take-over")
    assert status == 0
    assert "1 trials of a run that died are abandoned" in said
    assert "6 trials" in said
