"""Where a configuration can be deployed: one case for each rule."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.configurations import configured
from variants.deploy.targets import TARGETS, obstacle_to, targets_of
from variants.workload import Workload

SHAPE = {"batch": 2, "q_heads": 8, "kv_heads": 2, "head_dim": 64}
OWN = ("own-layer",)
EAGER = ("own-layer", "transformers-eager")


@pytest.mark.parametrize(
    ("words", "choices", "shape", "targets", "why"),
    [
        ("cudnn bf16 static", {"execution": "cuda_graph"}, {}, (OWN[0], TARGETS[2]), ""),
        ("cudnn bf16 static", {}, {}, TARGETS, ""),
        ("eager bf16 static", {"execution": "compiled"}, {}, TARGETS, ""),
        ("cudnn bf16 concat", {}, {}, EAGER, "needs cache static, got concat"),
        ("flash bf16 static", {}, {}, EAGER, "backend flash takes no mask"),
        ("flex bf16 paged", {}, {}, EAGER, "needs cache static, got paged"),
        (
            "math bf16 static",
            {"quantization": "int8_dynamic"},
            {},
            EAGER,
            "int8_dynamic cannot be",
        ),
        ("flash bf16", {}, {"phase": "prefill"}, TARGETS, ""),
        ("flash bf16", {"execution": "cuda_graph"}, {"phase": "prefill"}, OWN, "a prompt is"),
        ("flash bf16", {}, {"phase": "train"}, EAGER, "no gradients"),
        ("flex bf16 static", {}, {"score_mod": "alibi"}, OWN, "does not tell .* of alibi"),
        (
            "eager bf16 static",
            {},
            {"score_mod": "softcap:50+sliding_window:16"},
            TARGETS,
            "",
        ),
    ],
)
def test_each_rule(
    words: str,
    choices: dict[str, str],
    shape: dict[str, str],
    targets: tuple[str, ...],
    why: str,
) -> None:
    configuration = configured(Workload.model_validate(SHAPE | shape), words, **choices)
    assert targets_of(configuration, "cuda") == targets
    said = obstacle_to("transformers-captured", configuration, "cuda")
    assert re.search(why, said) if why else said is None


def test_a_cpu_captures_nothing() -> None:
    workload = Workload.model_validate(SHAPE)
    configuration = configured(workload, "math fp32 static")
    assert targets_of(configuration, "cpu") == EAGER
    said = obstacle_to("transformers-captured", configuration, "cpu")
    assert said == "cpu has no CUDA graphs"


def test_the_rule_needs_neither_pytorch_nor_transformers() -> None:
    code = (
        "import sys, variants.deploy.targets; "
        "print({'torch', 'transformers'} & sys.modules.keys() or 'none')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "none\n"
