"""Plugins: what a file may register, and what its bugs become."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from objectives.schema.evaluation import Outcome
from objectives.schema.limits import Limits
from objectives.trial.bench import DeviceBench
from objectives.trial.evaluator import Evaluator
from tests.configurations import configured
from tests.search.test_cli import ROOT, search
from variants import plugins
from variants.axes import AXES
from variants.backends import BACKENDS, backend_that_ran
from variants.detect import detect_device
from variants.plugins import PluginError, load_plugin, missing_plugins, read_plugin
from variants.workload import Phase, Workload

EXAMPLE = ROOT / "docs" / "plugin_example.py"
# Four backends, each with a bug of its own, and one that is sound.
BUGGY = """
import time, torch
from variants.backends import BACKENDS, Backend, Support, Takes
from variants.backends.eager import EagerAttention

class Sound(EagerAttention):
    def attend(self, query, kv, mask):
        with torch.profiler.record_function("buggy::" + type(self).__name__):
            return self.bug(super().attend(query, kv, mask))
    def bug(self, out):
        return out

class Raises(Sound):
    def bug(self, out):
        raise KeyError("no such head")

class Hangs(Sound):
    def bug(self, out):
        time.sleep(3600)

class Nan(Sound):
    def bug(self, out):
        return out * float("nan")

class Shape(Sound):
    def bug(self, out):
        return out[:1]

for of in (Sound, Raises, Hangs, Nan, Shape):
    BACKENDS.register(Backend(
        name=of.__name__.lower(), summary="a bug", prepare=of,
        support={"cpu": Support(precisions=("fp32",), takes=Takes.ANY, grouped_heads=True)},
        proof={"cpu": "buggy::"},
    ))
"""


@pytest.fixture(autouse=True)
def _forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the registries of this process as they were."""
    for registry in plugins._OPEN:
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(plugins, "_loaded", {})


def plugin(folder: Path, source: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(source)
    return path


# Backends that are right at first: the second is less exact from its tenth call on, as a kernel
# that has tuned itself, and the third stays right.
SWITCHING = """
import torch
from variants.backends import BACKENDS, Backend, Support, Takes
from variants.backends.eager import EagerAttention

class Zeros(EagerAttention):
    right, calls = 3, 0
    def attend(self, query, kv, mask):
        self.calls += 1
        with torch.profiler.record_function("switching::attend"):
            out = super().attend(query, kv, mask)
            return out if self.calls <= self.right else self.switched(out)
    def switched(self, out):
        return torch.zeros_like(out)

class Tuned(Zeros):
    right = 9
    def switched(self, out):
        return out * 1.02

class Steady(Zeros):
    def switched(self, out):
        return out

for of in (Zeros, Tuned, Steady):
    BACKENDS.register(Backend(
        name=of.__name__.lower(), summary="switches", prepare=of,
        support={"cpu": Support(precisions=("fp32",), takes=Takes.ANY, grouped_heads=True)},
        proof={"cpu": "switching::"},
    ))
"""


@pytest.mark.parametrize("phase", ["decode", "prefill", "train"])
def test_a_kernel_that_is_right_at_first_only_is_inaccurate(tmp_path: Path, phase: str) -> None:
    load_plugin(read_plugin(plugin(tmp_path, SWITCHING)))
    evaluator = Evaluator(detect_device("cpu"), Limits(sampling_s=0.05, max_stall_ms=1e6), seed=0)
    new_tokens = 2 if phase == "decode" else 1
    workload = Workload(
        phase=Phase(phase), batch=2, seq_len=16, new_tokens=new_tokens, q_heads=2, head_dim=16
    )
    cache = " static" if phase == "decode" else ""
    found = {
        backend: evaluator.evaluate(configured(workload, f"{backend} fp32{cache}"))
        for backend in ("zeros", "tuned", "steady")
    }
    assert {name: one.outcome.value for name, one in found.items()} == {
        "zeros": "INACCURATE",
        "tuned": "INACCURATE",
        "steady": "MEASURED",
    }
    measured = found["zeros"].measurements
    assert measured is not None
    assert measured.relative_error == pytest.approx(1.0)
    reason = (
        r"relative error 1 once it was timed \(\d\.?\d?e-0\d in its first steps\) is above 0.01"
    )
    assert re.fullmatch(reason, found["zeros"].reason)


def test_bugs_are_outcomes_and_the_rest_goes_on(tmp_path: Path) -> None:
    load_plugin(read_plugin(plugin(tmp_path, BUGGY)))
    assert {"sound", "nan"} <= set(AXES["backend"].known or ())
    bench = DeviceBench(
        Limits(deadline_s=6.0, sampling_s=0.01, max_stall_ms=1e6), seed=0, device="cpu"
    )
    workload = Workload(batch=2, seq_len=16, new_tokens=2, q_heads=2, head_dim=16)
    expected = {
        "sound": (Outcome.MEASURED, ""),
        "nan": (Outcome.INACCURATE, "relative error inf is above 0.01"),
        "eager": (Outcome.MEASURED, ""),  # whatever a plugin's proof matches
        "raises": (Outcome.CRASHED, "KeyError: 'no such head'"),
        "shape": (
            Outcome.CRASHED,
            r"ValueError: out must have shape \(2, 2, 32\), got \(1, 2, 32\)",
        ),
        "hangs": (Outcome.TIMED_OUT, "not done after 6 s"),
    }
    try:
        for backend, (outcome, reason) in expected.items():
            found = bench.evaluate(configured(workload, f"{backend} fp32 static"))
            assert found.outcome is outcome, found.reason
            assert re.match(reason, found.reason)
    finally:
        bench.close()


REFUSED = [
    ("1 / 0", "line 1: ZeroDivisionError: division by zero"),
    ("x = (", r"SyntaxError: .*never closed"),
    ("pass", "it registers no backend, score_mod or cache"),
    ("from variants.backends import *\nBACKENDS.register(BACKENDS['eager'])", "eager exists"),
    (
        "from variants.backends import *\nBACKENDS.register(3)",
        "backend must be a Backend, got int",
    ),
    (
        "from dataclasses import replace\nfrom variants.backends import *\n"
        "BACKENDS.register(replace(BACKENDS['eager'], name='My-Own'))",
        "line 3: ValueError: backend must be named by a-z, 0-9 and _, got 'My-Own'",
    ),
    (
        "from dataclasses import replace\nfrom variants.backends import *\n"
        "BACKENDS.register(replace(BACKENDS['eager'], name='mine', proof={}))",
        "proof of mine must name an operator or kernel that runs on cpu",
    ),
    (
        "from dataclasses import replace\nfrom variants.backends import *\n"
        "BACKENDS.register(replace(BACKENDS['eager'], name='mine', support={'cpu': None}))",
        "support of mine must hold a Support for each kind of device",
    ),
    (
        "from dataclasses import replace\nfrom variants.axes import VARIANT_AXES\n"
        "from variants.backends import *\n"
        "BACKENDS.register(replace(BACKENDS['eager'], name='mine', axes=(VARIANT_AXES['gqa'],)))",
        "axes of mine must be none: plugins cannot add axes",
    ),
    (
        "from dataclasses import replace\nfrom variants.score_mods import SCORE_MODS\n"
        "SCORE_MODS.register(replace(SCORE_MODS['document'], name='mine', "
        "visible_keys=lambda n, position: -1))",
        "visible_keys of mine must be positive integers",
    ),
    (
        "from dataclasses import replace\nfrom variants.caches import CACHES\n"
        "CACHES.register(replace(CACHES['static'], name='mine', cache=int))",
        "cache of mine must be a subclass of KVCache",
    ),
    ("#" * 100_001, "plugin must have at most 100000 bytes"),
]


@pytest.mark.parametrize(("source", "expected"), REFUSED, ids=[text[:40] for _, text in REFUSED])
def test_a_file_that_is_no_plugin_is_refused_in_a_line(
    tmp_path: Path, source: str, expected: str
) -> None:
    with pytest.raises(PluginError, match=expected) as caught:
        load_plugin(read_plugin(plugin(tmp_path, source)))
    assert "\n" not in str(caught.value)


def test_a_changed_plugin_is_told_from_an_absent_one(tmp_path: Path) -> None:
    path = plugin(tmp_path, BUGGY)
    there = read_plugin(path).plugin
    assert missing_plugins((there,)) == [there.label]
    path.write_text(BUGGY + "\n")
    load_plugin(read_plugin(path))
    (text,) = missing_plugins((there,))
    assert text.startswith(f"{there.label}, which is ")
    load_plugin(read_plugin(path))  # once a process
    assert missing_plugins((read_plugin(path).plugin,)) == []


def test_a_plugins_proof_speaks_for_itself_alone(tmp_path: Path) -> None:
    load_plugin(read_plugin(plugin(tmp_path, BUGGY.replace('"buggy::"}', '"softmax"}'))))
    assert backend_that_ran(["aten::_softmax"], "cpu") == "eager"
    assert backend_that_ran(["aten::_softmax"], "cpu", "eager") == "eager"
    assert backend_that_ran(["aten::_softmax"], "cpu", "nan") == "nan"
    assert BACKENDS.added[0] == "sound"


def test_the_example_is_searched_resumed_exported_and_loaded(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    shutil.copy(EXAMPLE, mine)
    space = [
        *("--device", "cpu", "--batch", "1", "--seq-len", "300", "--new-tokens", "2"),
        *("--q-heads", "4", "--kv-heads", "2", "--head-dim", "16", "--precision", "fp32"),
        *("--backend", "chunked", "--score-mod", "none,recency:20"),
        *("--cache", "static", "--max-stall-ms", "100000", "--no-finalists"),
    ]
    done = search("run", "--plugin", "mine.py", "--study", "s", *space, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"budget spent: 2 trials|whole space is measured: 2 trials", done.stdout)
    assert "chunked fp32 static" in done.stdout

    absent = search("show", cwd=tmp_path)
    assert absent.returncode == 2
    assert f"study s was made with --plugin {mine} (sha256 " in absent.stderr
    options = ["--plugin", "mine.py", "--output", "best.json", "--prefer", "memory"]
    assert search("export", *options, cwd=tmp_path).returncode == 0
    load = (
        "import torch, variants\n"
        "try:\n    variants.load('best.json')\n"
        "except variants.deploy.loading.LoadError as error:\n    print(error)\n"
        "loaded = variants.load('best.json', plugins=['mine.py'], other_device=True)\n"
        "query, key = torch.randn(1, 4, 1, 16), torch.randn(1, 2, 300, 16)\n"
        "out = loaded.attention(query, key, key, score_mod='recency:20')\n"
        "print(loaded.configurations[0].variant.backend, tuple(out.shape))\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", load],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"best.json was made with plugins that are not loaded: {mine}" in shown.stdout
    assert "(1, 4, 1, 16)" in shown.stdout, shown.stderr

    mine.write_text(EXAMPLE.read_text() + "\n")
    changed = search("run", "--plugin", "mine.py", "--study", "s", *space, cwd=tmp_path)
    assert changed.returncode == 2
    assert re.search(rf"--plugin {re.escape(str(mine))} .*, which is \w+ now", changed.stderr)


def test_support_lists_a_plugin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.cli import main

    monkeypatch.setattr(
        sys,
        "argv",
        [
            *("search", "support", "--device-profile", "cpu"),
            *("--plugin", str(EXAMPLE), "--score-mod", "recency:64"),
        ],
    )
    assert main() == 0
    shown = capsys.readouterr().out
    assert "chunked" in shown
    assert "recency:64" in shown
