"""`verify --in-model`: a tiny model generates in a real measuring process."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage

from objectives.in_model.schema import InModel
from objectives.schema.limits import Limits
from objectives.trial.evaluator import Evaluator
from objectives.trial.trial_handler import TrialHandler
from search.cli import main
from search.documents.verify_document import InModelDocument
from studies.export.document import build_export
from studies.results.results import read_results
from tests.search.test_cli import search
from tests.studies.export.test_verification import OtherBench
from tests.studies.session.test_session import run, session
from variants.detect import detect_device
from variants.device import Device

CONFIG = {
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
AXES = {
    "phase": ("decode", "prefill"),
    "batch": (2,),
    "seq_len": (24,),
    "q_heads": (8,),
    "kv_heads": (2,),
    "head_dim": (32,),
    "hidden_size": (64,),
    "score_mod": ("none",),
    "backend": ("math",),
    "precision": ("fp32",),
    "cache": ("static",),
    "kv_dtype": ("same",),
    "gqa": ("native",),
    "execution": ("eager",),
}


class CpuBench(OtherBench):
    def device(self) -> Device:
        return detect_device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export whose numbers are made up, and a model's configuration."""
    of = session(InMemoryStorage(), CpuBench(time=0.5, memory=0.5), axes=AXES)
    run(of, 2)
    (tmp_path / "best.json").write_text(build_export(read_results(of.study)).model_dump_json())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


@pytest.mark.timeout(300)
def test_default_and_winner_generate_in_turns(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", reason="needs transformers: pip install '.[hf]'")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # tiny products, and cores that others use
    options = ["--in-model", "config.json", "--new-tokens", "6", "--rounds", "1", "--json"]
    done = search("verify", "best.json", "--device", "cpu", *options, cwd=folder)
    said = " ".join(done.stderr.split())
    document = InModelDocument.model_validate_json(done.stdout)
    assert (document.model, document.layers, document.new_tokens) == ("LlamaForCausalLM", 2, 6)
    assert document.slower == bool(done.returncode)
    assert done.returncode == int("winner is slower than the default" in said), done.stderr
    assert "LlamaForCausalLM: 2 of 2 layers, 0.0 GiB of random weights in float32" in said
    assert "launched kernel by kernel (transformers eager): cpu has no CUDA graphs" in said
    assert "the first 8 tokens are the default's in 2 of 2 sequences" in said
    for side in ("default", "winner"):
        promised = re.search(
            rf"promised for the {side}: (\S+) ms of attention as measured \+ (\S+) ms of the "
            rf"rest = (\S+) ms a token; (\S+) came",
            said,
        )
        assert promised is not None, said
        attention, rest, total, _ = map(float, promised.groups())
        assert document.sides[side].promised_ms == pytest.approx(total, rel=0.01)
        assert len(document.sides[side].rounds_ms) == 1
        assert attention + rest == pytest.approx(total, rel=0.02)
    assert re.search(r"promised \S+× (faster|slower), came \S+× (faster|slower)", said)


def in_process(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(
        sys, "argv", ["search", "verify", "best.json", "--device", "cpu", *options]
    )
    return main()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--in-model", "nowhere"], "nor is there such a file or folder"),
        (["--in-model", "llama-3.1-8b"], "32:8 of 128; got 8:2 of 32"),
        (["--prompt", "8"], "--prompt must come with --in-model, got --prompt 8 alone"),
        (["--rounds", "8"], "--rounds must come with --in-model, got --rounds 8 alone"),
    ],
)
def test_wrong_use_is_one_line(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: str,
) -> None:
    assert in_process(folder, monkeypatch, *options) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert errors.startswith("error: ")


def test_without_transformers_it_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluator = Evaluator(detect_device("cpu"), Limits(), 0)
    for name in [n for n in sys.modules if n.startswith(("objectives.in_model.", "variants.hf"))]:
        if name != "objectives.in_model.schema":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in ("hf", "deploy.whole_model", "deploy.rest_of_model"):
        monkeypatch.delitem(sys.modules, f"variants.{name}", raising=False)
    answer = TrialHandler(evaluator, lambda stage: None).work({"in_model": {}})
    refused = InModel.model_validate(answer).refused
    assert refused.endswith("needs transformers: pip install '.[hf]'")

    def answered(*_: object) -> InModel:
        return InModel(refused=refused)

    monkeypatch.setattr("objectives.trial.bench.DeviceBench.in_model", answered)
    assert in_process(folder, monkeypatch, "--in-model", "config.json") == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: --in-model: {refused}"


def test_a_choice_that_is_the_default_has_nothing_to_prove(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    of = session(InMemoryStorage(), CpuBench(time=5, memory=5), axes=AXES)
    run(of, 2)
    document = build_export(read_results(of.study))
    (folder / "best.json").write_text(document.model_dump_json())
    assert in_process(folder, monkeypatch, "--in-model", "config.json", "--json") == 0
    captured = capsys.readouterr()
    assert "is the default: nothing to try in a model" in captured.err
    found = InModelDocument.model_validate_json(captured.out)
    assert (found.tried, found.slower, found.sides) == (False, False, {})
