"""From a search to a model that generates with its winner, each step in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.search.test_cli import ROOT, search

SPACE = [
    *("--device", "cpu", "--phase", "prefill,decode", "--batch", "2", "--seq-len", "24"),
    *("--new-tokens", "4", "--q-heads", "8", "--kv-heads", "2", "--head-dim", "32"),
    *("--score-mod", "none", "--backend", "eager,math,flash", "--precision", "fp32"),
    *("--cache", "concat,static", "--gqa", "native", "--max-stall-ms", "100000", "--no-finalists"),
]
GENERATE = """
import sys, torch, transformers, variants
from variants import hf
from variants.deploy import dispatch_overhead

config = transformers.LlamaConfig(
    vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
    num_attention_heads=8, num_key_value_heads=2, head_dim=32, initializer_range=0.2,
    pad_token_id=0, bos_token_id=1, eos_token_id=None,
)
torch.set_num_threads(1)  # tiny products, and cores that others use
torch.manual_seed(0)
model = transformers.LlamaForCausalLM(config).eval()
ids = torch.randint(2, 128, (2, 24))
given = {"do_sample": False, "max_new_tokens": 64, "attention_mask": torch.ones_like(ids)}
default = model.generate(ids, **given)
for pick in ("dispatch", "single"):
    loaded = variants.load("best.json", pick=pick, device="cpu")
    model.set_attn_implementation(hf.register(loaded))
    cache = hf.past_key_values(loaded, model.config, capacity=24 + 64)
    winner = model.generate(ids, past_key_values=cache, **given)
    assert winner.shape == (2, 88)
    print(pick, "identical", torch.equal(default, winner))
sys.argv = ["", "best.json"]
dispatch_overhead.main()
"""


def test_a_model_generates_the_same_tokens_with_the_winner(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs transformers: pip install '.[hf]'")
    assert search("run", "--trials", "9", *SPACE, cwd=tmp_path).returncode == 0
    options = ["--pick", "dispatch", "--prefer", "latency", "--execution", "eager"]
    exported = search("export", "--output", "best.json", *options, cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert "to load: pick dispatch, prefer latency" in exported.stdout
    assert "wrote best.json" in exported.stdout
    document = json.loads((tmp_path / "best.json").read_text())
    assert (document["pick"], document["prefer"]) == ("dispatch", "latency")
    done = subprocess.run(
        [sys.executable, "-c", GENERATE],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "dispatch identical True\nsingle identical True\n" in done.stdout
    assert re.search(r"dispatch: [\d.]+ µs a call", done.stdout)
