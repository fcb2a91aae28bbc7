"""The command line, as a child process and as a function."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from wsgiref.simple_server import make_server

import psutil
import pytest
from optuna.storages import BaseStorage
from optuna_dashboard import wsgi

from objectives.schema.evaluation import Outcome
from search.cli import main
from studies.dashboard.publisher import publish
from studies.dashboard.serving import _QuietHandler, _Server
from studies.export.document import Export
from studies.results.labels import trial_name
from studies.storage.optuna_internals import study_id_of
from studies.study.study import load_study, open_storage
from studies.study.trials import finished_trials
from tests.fake_bench import FakeBench
from tests.studies.session.test_session import run, session

ROOT = Path(__file__).parents[2]
TINY = [
    *("--device", "cpu", "--batch", "1", "--seq-len", "64", "--new-tokens", "2"),
    *("--q-heads", "2", "--head-dim", "32", "--score-mod", "none,alibi"),
    *("--backend", "eager,math,flash", "--precision", "fp32,tf32,bf16"),
]


def search(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "search", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_the_main_job_end_to_end(tmp_path: Path) -> None:
    first = search("run", "--trials", "6", *TINY, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    for words in ("search space", "budget spent: 6 trials", "where", "next:"):
        assert words in first.stdout
    screen = first.stdout[first.stdout.index("\nOn ") + 1 :]
    assert len(screen.splitlines()) <= 24
    # It is piped: each trial says its number, the time that went and what is left.
    assert (
        len(re.findall(r"^ +#\d+ \(\d/6\) .* \[.* s, about .* left\]$", first.stdout, re.M)) == 6
    )
    assert "auto→flash fp32 concat" in first.stdout

    resumed = search(
        "run", "--study", "attention-1", "--trials", "9", *TINY, "--all", cwd=tmp_path
    )
    assert resumed.returncode == 0, resumed.stderr
    for words in ("verdict", "outcomes of 9 trials", "what was tried of what is possible"):
        assert words in resumed.stdout
    assert "budget spent: 9 trials" in resumed.stdout
    assert "3 of them now" in resumed.stdout
    study = load_study(open_storage(f"sqlite:///{tmp_path / 'goldilocks.db'}"), None)
    keys = [record.evaluation.configuration.key for record in finished_trials(study)]
    assert len(keys) == len(set(keys)) == 9

    shown = search("show", "--all", cwd=tmp_path)
    exported = search("export", "--output", "best.json", cwd=tmp_path)
    assert (shown.returncode, exported.returncode) == (0, 0)
    document = Export.model_validate_json((tmp_path / "best.json").read_text())
    for workload in document.workloads:
        for choice in workload.chosen.values():
            variant = choice.variant
            number = trial_name(choice.trial)
            cells = rf"{number} .*{variant.precision} {variant.cache}.*"
            cells += re.escape(f"{choice.measurements.memory.peak_mib:.1f}")
            assert re.search(cells, shown.stdout)

    table = search("table", cwd=tmp_path)
    assert table.returncode == 0
    assert len(table.stdout.splitlines()) == 1 + 2 + 9


def test_dry_run_prints_the_space_and_measures_nothing(tmp_path: Path) -> None:
    done = search("run", "--dry-run", *TINY, cwd=tmp_path)
    assert done.returncode == 0
    assert "90 combinations over 2 workloads: 36 possible, 54 impossible" in done.stdout
    assert "30  precision tf32 does not exist on cpu" in done.stdout
    assert re.search(r"about .* for 36 trials", done.stdout)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def _storage(folder: Path) -> Iterator[BaseStorage]:
    yield open_storage(f"sqlite:///{folder / 'goldilocks.db'}")


@pytest.mark.parametrize("interrupts", [1, 2])
def test_interrupt_keeps_what_was_told_and_says_how_to_resume(
    tmp_path: Path, interrupts: int
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "search", "run", *TINY, "--seq-len", "2000,2048,2100"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "(3/108)" in line:
            break
    workers = psutil.Process(process.pid).children()
    for _ in range(interrupts):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == ""
    assert "python -m search run --study attention-1" in rest
    if interrupts == 1:
        assert "finalists are missing" in rest or "nothing that was tried" in rest
    assert not [worker for worker in workers if worker.is_running()]
    with _storage(tmp_path) as opened:
        study = load_study(opened, "attention-1")
        assert 3 <= sum(1 for _ in finished_trials(study)) < 108


BAD: list[tuple[str, str]] = [
    ("run --trials 0", "--trials"),
    ("run --trials abc", "--trials"),
    ("run --backend flsh", "--backend: backend must be one of eager, math, .*; got flsh"),
    ("run --backend auto", "--backend: backend must be one of"),
    ("run --batch 0", "--batch: batch must be a positive integer, got 0"),
    ("run --batch x", "--batch: batch must be a positive integer, got 'x'"),
    ("run --score-mod sliding_window:0", "window in keys of sliding_window must be a positive"),
    ("run --sampler best", "--sampler must be one of goldilocks, .*; got best"),
    ("run --device gpu", "--device"),
    ("run --device cpu --workers 0", "--workers must be a positive number or all, got 0"),
    ("run --device cpu --workers -1", "--workers must be a positive number or all, got -1"),
    ("run --device cpu --workers 1.5", "--workers must be a positive number or all, got 1.5"),
    ("run --device cpu --workers x", "--workers must be a positive number or all, got x"),
    ("run --device cpu --workers ²", "--workers must be a positive number or all, got ²"),
    ("run --device cpu --workers 10000", r"--workers must be at most \d+, one for each core; got"),
    ("run --device cuda --workers 10000", r"--workers must be at most \d+, one for each GPU that"),
    ("run --nonsense", "nonsense"),
    ("run --storage sqlite:////nowhere/at/all.db", "storage must be a database .*/nowhere/at"),
    ("run --storage nonsense", "storage must be"),
    ("run --space absent.toml", "--space must be a file that can be read, got absent.toml"),
    ("run --space broken.toml", "--space must be a TOML file, got broken.toml"),
    ("run --space axis.toml", "axis must be one of phase, .*; got bach"),
    ("run --space type.toml", "batch must be a positive integer, got 1.5"),
    ("run --space table.toml", r"tables must be \[axes\] alone, got axis"),
    ("run --space empty.toml", "batch must have a choice, got none"),
    ("show --study absent", "no such file"),
    ("show --study absent --storage sqlite:///empty.db", "the storage holds no study"),
    ("show", "storage must be a database that exists, got .*: no such file; .* run. makes one"),
    ("table", "no such file"),
    ("sensitivity", "no such file"),
    ("profile --trial 1", "no such file"),
    ("show --storage sqlite:///empty.db", "the storage holds no study"),
    ("run --storage sqlite:///:memory:", "storage must be a file or a server, .* in memory ends"),
    ("show --storage sqlite://", "storage must be a file or a server, .* in memory ends"),
    ("replay unmeasured.csv", "unmeasured.csv must have a row that was measured, got 2 without"),
    ("export --study absent", "no such file"),
    ("report", "no such file"),
    ("report --study absent", "no such file"),
    ("export --execution graph", "--execution: execution must be one of eager, compiled, .*; got"),
    ("export --pick best", "--pick"),
    ("export --max-memory-gib 0", "--max-memory-gib"),
    ("table --output x.xlsx", "no such file"),
    ("dashboard", "no such file"),
    ("run --preset kv", "--preset: preset must be one of flex-attention, .*; got kv"),
    (
        "run --preset ../presets/kv-cache",
        "--preset: preset must be one of flex-attention, .*; got",
    ),
    ("profile --trial ../../x", "--trial"),
    ("run --model lama", "--model: model must be one of gpt2, .*; got lama"),
    ("run --model ./absent.json", "--model: model must be a file that can be read, got absent"),
    ("run --model broken.json", "--model: broken.json: num_key_value_heads must divide"),
    ("run --model typeless.json --dry-run", "--model: typeless.json: model_type must be there"),
    ("run --model sinks.json --dry-run", "--model: sinks.json: model_type gpt_oss cannot be"),
    ("run --model sparse.json --dry-run", "--model: sparse.json: sparse_attention may change"),
    (
        "run --model gemma-2-9b --score-mod alibi",
        "--model: score_mod of gemma-2-9b must be one of softcap:50.*; got alibi",
    ),
    ("run --quantization int4", "--quantization: quantization must be one of none, .*; got int4"),
    ("run --kv-dtype fp4", "--kv-dtype: kv_dtype must be one of same, int8, fp8; got fp4"),
    ("support --device-profile h100 --q-heads 4 --kv-heads 3", "q_heads must be a multiple of"),
    ("support --device-profile h100 --check", "--check must be left out"),
    ("support --device-profile tpu", "must be one of cpu, a100, h100, h200; got tpu"),
    ("run --device cpu --q-heads 4 --kv-heads 3", "q_heads must be a multiple of kv_heads"),
    (
        "run --device cpu --backend cudnn",
        "no combination of the space can run on .*: backend cudnn does not exist on cpu",
    ),
]
FILES = {
    "broken.toml": "[axes\nbatch = 1",
    "axis.toml": "[axes]\nbach = 1",
    "type.toml": "[axes]\nbatch = [1, 1.5]",
    "table.toml": "[axis]\nbatch = 1",
    "empty.toml": "[axes]\nbatch = []",
    "broken.json": '{"model_type": "llama", "num_attention_heads": 32, "num_key_value_heads": 5}',
    "typeless.json": '{"num_attention_heads": 32, "hidden_size": 4096, "num_hidden_layers": 2}',
    "sinks.json": '{"model_type": "gpt_oss", "num_attention_heads": 64}',
    "sparse.json": '{"model_type": "llama", "sparse_attention": "by\\nblocks"}',
    "empty.db": "",
    "unmeasured.csv": "phase,batch,backend,outcome,peak_mib,latency_ms\n"
    "decode,1,math,OUT_OF_MEMORY,,\ndecode,1,flash,CRASHED,,\n",
}


@pytest.mark.parametrize(("command", "expected"), BAD, ids=[command for command, _ in BAD])
def test_bad_input_is_one_line_and_status_2(
    command: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sys, "argv", ["search", *command.split()])
    assert main() == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert re.search(expected, errors)
    assert {path.name for path in tmp_path.glob("*.db*")} == {"empty.db"}  # nothing is left behind
    assert (tmp_path / "empty.db").stat().st_size == 0


def test_cuda_on_a_machine_without_it_is_one_line(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    options = ["--precision", "bf16", "--backend", "math", "--device", "cuda"]
    done = search("run", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: device must be one this machine has \(cpu\), got cuda: .*\n", done.stderr
    )


def test_support_names_what_runs_and_why_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["search", "support", "--device-profile", "h100"])
    assert main() == 0
    shown = capsys.readouterr().out
    assert "NVIDIA H100" in shown
    assert "flash takes bf16 or fp16, not fp32" in shown
    assert "backend math takes no block table, which cache paged needs" in shown


def test_support_is_asked_about_a_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "support --device-profile h100 --model llama-3.1-8b --batch 32 --backend efficient"
    monkeypatch.setattr(sys, "argv", ["search", *words.split()])
    assert main() == 0
    assert "efficient needs kv_heads equal to q_heads, or gqa" in capsys.readouterr().out


def test_dashboard_shows_named_objectives_and_no_failure_as_best(storage: BaseStorage) -> None:
    fails = {"math": Outcome.INACCURATE, "eager": Outcome.OUT_OF_MEMORY}
    of = session(storage, FakeBench(fails=fails))
    run(of, 40)
    publish(of.study)
    with make_server("127.0.0.1", 0, wsgi(storage), handler_class=_QuietHandler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        with urllib.request.urlopen(f"{address}/dashboard") as response:
            assert response.status == 200
        with urllib.request.urlopen(f"{address}/api/studies/{study_id_of(of.study)}") as response:
            page = json.load(response)
        server.shutdown()
        thread.join()
    assert page["objective_names"] == ["peak_memory_vs_default", "latency_vs_default"]
    assert "40 trials told so far" in page["note"]["body"]
    plots = {plot["id"]: json.loads(plot["graph_object"]) for plot in page["plotly_graph_objects"]}
    assert sorted(plots) == ["goldilocks-front", "goldilocks-map", "hypervolume"]
    assert all(plot["data"] for plot in plots.values())
    assert len(page["trials"]) == 40
    states = {trial["state"] for trial in page["trials"]}
    assert states == {"Complete", "Pruned"}
    best = page["best_trials"]
    assert best
    for trial in best:
        attributes = {attr["key"]: attr["value"] for attr in trial["user_attrs"]}
        assert attributes["outcome"] == "MEASURED"
        assert trial["state"] == "Complete"


@pytest.mark.parametrize(
    ("options", "expected"), [([], "127.0.0.1"), (["--host", "127.0.0.2"], "127.0.0.2")]
)
def test_the_dashboard_listens_to_this_machine_alone_unless_told(
    options: list[str],
    expected: str,
    storage: BaseStorage,
    storage_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(session(storage), 1)
    sockets = []

    class Listening(_Server):
        def server_bind(self) -> None:
            self.server_address = (self.server_address[0], 0)  # a port that is free
            super().server_bind()

        def serve_forever(self, poll_interval: float = 0.5) -> None:
            sockets.append(self.socket.getsockname()[0])
            raise KeyboardInterrupt

    monkeypatch.setattr("studies.dashboard.serving._Server", Listening)
    monkeypatch.setattr(sys, "argv", ["search", "dashboard", "--storage", storage_url, *options])
    assert main() == 0
    assert sockets == [expected]
    assert f"http://{expected}:8080/" in capsys.readouterr().out


def test_report_is_written_and_attached_where_the_dashboard_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'goldilocks.db'}"
    of = session(open_storage(url), sampler="random")
    run(of, 8)
    done = search("report", "--output", "r.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"wrote r.html \(\d\.\d MB; needs no network\)", done.stdout)
    page = (tmp_path / "r.html").read_bytes()
    (attached,) = (tmp_path / "goldilocks.db.artifacts").iterdir()
    assert attached.read_bytes() == page
    monkeypatch.chdir(tmp_path)
    words = ["search", "report", "--no-attach", "--output", "absent/r.html"]
    monkeypatch.setattr(sys, "argv", words)
    assert main() == 2
    expected = "--output must be a file that can be written, got absent/r.html"
    assert expected in capsys.readouterr().err
