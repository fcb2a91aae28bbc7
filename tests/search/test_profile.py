"""The profile command: what it is asked for, what it leaves behind."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import pytest
from optuna.artifacts import get_all_artifact_meta
from optuna.storages import RDBStorage

import search.profile_command
from objectives.roofline.bound import DATASHEET, under_roofline
from objectives.schema.evaluation import Evaluation, Outcome
from objectives.timing.host_scaling import STEEPNESS
from search.cli import main
from search.profile_command import one_configuration, profile_summary
from search.views.terminal import make_console
from studies.storage.artifacts import artifact_folder
from studies.study.study import load_study
from tests.configurations import configured
from tests.fake_bench import FakeBench, measurements
from tests.studies.session.test_session import run, session
from variants.configuration import Configuration
from variants.device import DEVICE_PROFILES
from variants.workload import Workload

H100 = DEVICE_PROFILES["h100"].device


def profile(monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["search", "profile", *options])
    return main()


def test_a_trial_is_profiled_for_real_and_its_files_are_attached(
    storage: RDBStorage,
    storage_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    axes = {"batch": (1,), "seq_len": (64,), "score_mod": ("none",), "backend": ("math",)}
    of = session(storage, FakeBench(profile="cpu"), axes={**axes, "precision": ("fp32",)})
    run(of, 1)
    options = ["--trial", "0", "--storage", storage_url, "--output", str(tmp_path / "out")]
    assert profile(monkeypatch, *options) == 0
    shown = capsys.readouterr().out
    for words in (
        "aten::mm",
        "memory by stage",
        "what exists when memory peaks",
        "no memory snap",
    ):
        assert words in shown
    (attached,) = get_all_artifact_meta(load_study(storage, None))
    assert (attached.filename, attached.mimetype) == ("trial-0.trace.json", "application/json")
    (stored,) = artifact_folder(storage_url).iterdir()
    assert stored.read_bytes() == (tmp_path / "out" / "trial-0.trace.json").read_bytes()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--batch 1,4", "--batch must be one choice here, got 1,4"),
        ("--trial 3 --batch 1", "--batch must be left out with --trial"),
        ("--study s", "--study must come with --trial"),
        ("--q-heads 4 --kv-heads 3", "q_heads must be a multiple of kv_heads"),
        ("--backend flash --precision fp32", "cannot run .*: backend flash takes bf16"),
        ("--trial 7", r"--trial must be a finished trial of s \(0 to 2\), got 7"),
    ],
)
def test_wrong_use_is_one_line(
    options: str,
    expected: str,
    storage: RDBStorage,
    storage_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(session(storage), 3)
    monkeypatch.setattr(search.profile_command, "DeviceBench", lambda *args, **kwargs: FakeBench())
    assert profile(monkeypatch, *options.split(), "--storage", storage_url) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert re.search(expected, errors)


def test_what_is_not_named_is_pytorchs_default() -> None:
    chosen = one_configuration({"seq_len": (4096,), "precision": ("fp16",)}, H100)
    assert chosen.workload.seq_len == 4096
    assert chosen.variant.key == "auto/fp16/none/concat/same/eager"


def test_host_time_is_that_of_full_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Slow(FakeBench):
        def _answer(self, configuration: Configuration) -> Evaluation:
            latency = measurements(0.1, 10.0).latency.model_copy(update={"yardstick_ms": 0.6})
            measured = measurements(0.1, 10.0).model_copy(
                update={"latency": latency.at_host_speed(8.0)}
            )
            return Evaluation(
                configuration=configuration, outcome=Outcome.MEASURED, measurements=measured
            )

    peaks = dataclasses.replace(DATASHEET["NVIDIA H100"], yardstick_ms=0.3)
    of = Configuration.of(Workload(batch=1, seq_len=64), {"backend": "eager"})
    monkeypatch.setattr(search.profile_command, "console", make_console())
    search.profile_command.profile_one(Slow(), H100, of, peaks, tmp_path, prefix="")  # type: ignore[arg-type]
    assert f"GPU 0.100 ms, host {0.8 * 0.5**STEEPNESS:.3f} ms a step" in capsys.readouterr().out


def test_the_summary_says_what_binds_and_what_launching_costs(tmp_path: Path) -> None:
    of = configured(Workload(), "flash bf16 static")
    measured = measurements(0.1, 10.0)
    host = measured.latency.host.model_copy(update={"value": 0.4})
    latency = measured.latency.model_copy(
        update={"latency_ms": 0.4, "bound": "host", "host": host}
    )
    evaluation = Evaluation(
        configuration=of,
        outcome=Outcome.MEASURED,
        measurements=measured.model_copy(update={"latency": latency}),
    )
    peaks = DATASHEET["NVIDIA H100"].__class__(1979, 989, 494, 67, 3350, launch_us=4.0)
    found = FakeBench().profile(of, tmp_path, "").model_copy(update={"steps": 2, "launches": 30})
    text = "\n".join(profile_summary(under_roofline(evaluation, H100, peaks), found, peaks))
    assert "bound by the host: GPU 0.100 ms, host 0.400 ms a step; the GPU idles 75% of it" in text
    assert "15 kernels, copies and fills a step" in text
    assert "launching so many operations takes 0.060 ms" in text
    assert re.search(r"roofline: \d+% \(bound by bandwidth, 0\.0\d+ ms at measured rates\)", text)


def test_a_trial_is_not_profiled_on_another_kind_of_device(
    storage: RDBStorage,
    storage_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    of = session(storage, FakeBench(profile="cpu"), axes={"batch": (1,), "seq_len": (64,)})
    run(of, 1)
    assert profile(monkeypatch, "--trial", "0", "--device", "cuda", "--storage", storage_url) == 2
    errors = capsys.readouterr().err
    assert "--device must be cpu here" in errors
    assert errors.count("\n") == 1
