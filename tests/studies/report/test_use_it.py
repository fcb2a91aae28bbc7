"""The section "use it" of the report: its lines are run as they stand."""

from __future__ import annotations

import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="needs transformers: pip install '.[hf]'")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tests.variants.test_hf import tiny

from search import cli
from studies.report.use_it import FILE, Snippet, snippets
from studies.results.results import read_results
from studies.study.study import open_storage
from tests.fake_bench import FakeBench
from tests.studies.session.test_session import run, session
from variants.detect import detect_device
from variants.device import Device

AXES: dict[str, tuple[Any, ...]] = {
    "batch": (1,),
    "seq_len": (16, 32),
    "score_mod": ("none",),
    "q_heads": (8,),
    "kv_heads": (2,),
    "head_dim": (32,),
    "hidden_size": (64,),
    "backend": ("math",),
    "precision": ("fp32",),
    "cache": ("static",),
    "execution": ("eager",),
}


class BenchOfHere(FakeBench):
    """Measures nothing, on this machine's CPU: what it exports can be loaded here."""

    def device(self) -> Device:
        return detect_device("cpu")


class TinyModels:
    """Gives tiny models in the place of any that a path names."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def from_pretrained(self, path: str, attn_implementation: str, dtype: torch.dtype) -> Any:
        self.given.append(tiny("llama", attn_implementation).to(dtype))
        return self.given[-1]


def said(storage_url: str, axes: dict[str, tuple[Any, ...]], trials: int) -> dict[str, Snippet]:
    of = session(open_storage(storage_url), BenchOfHere(), axes=axes, name="what's this")
    run(of, trials)
    found = snippets(read_results(of.study), f" --storage {storage_url}")
    return {snippet.title: snippet for snippet in found}


# One token, and prompts, are less than what was measured; and nothing is captured on a CPU.
@pytest.mark.filterwarnings("ignore")
def test_the_lines_export_load_and_decode_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = said(f"sqlite:///{tmp_path}/s.db", AXES | {"phase": ("decode",)}, 2)
    words = shlex.split("\n".join(blocks["Export"].lines).replace("\\\n", " "))
    assert words[:3] == ["python", "-m", "search"]
    monkeypatch.setattr(sys, "argv", words[2:])
    assert cli.main() == 0
    assert blocks["Verify"].lines[0] == f"python -m search verify {FILE}"
    query, key, value = (torch.randn(1, heads, 1, 32) for heads in (8, 2, 2))
    models = TinyModels()
    scope: dict[str, Any] = {"query": query, "key": key, "value": value, "path": "there"}
    scope["AutoModelForCausalLM"] = models
    exec("\n".join(blocks["Load"].lines), scope)
    assert scope["out"].shape == query.shape
    exec("\n".join(blocks["Decode in transformers"].lines), scope)
    (model,) = models.given
    assert model.config._attn_implementation == scope["name"]
    prompt = torch.randint(2, 100, (1, 8))
    assert model.generate(prompt, do_sample=False, max_new_tokens=2).shape == (1, 10)


def test_what_cannot_be_is_not_offered(tmp_path: Path) -> None:
    trains = {"phase": ("train",)} | {name: c for name, c in AXES.items() if name != "cache"}
    blocks = said(f"sqlite:///{tmp_path}/train.db", trains, 1)
    assert set(blocks) == {"Export", "Verify", "Load"}
    assert "cache" not in "\n".join(blocks["Load"].lines)
