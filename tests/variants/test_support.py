"""H100 rules, asked on any machine."""

from __future__ import annotations

import pytest

from tests.configurations import configured
from variants.axes import VARIANT_AXES
from variants.configuration import Configuration, default_variant
from variants.device import DEVICE_PROFILES
from variants.support import unsupported_reasons
from variants.variant import Variant
from variants.workload import Phase, Workload

H100 = DEVICE_PROFILES["h100"].device


def reasons(words: str, profile: str = "h100", **given: object) -> str:
    """Why `backend precision cache` cannot run; given are fields of the workload and choices."""
    choices = {name: str(given.pop(name)) for name in tuple(given) if name in VARIANT_AXES}
    workload = Workload.model_validate({"seq_len": 64, **given})
    device = DEVICE_PROFILES[profile].device
    return "; ".join(unsupported_reasons(configured(workload, words, **choices), device))


@pytest.mark.parametrize("backend", ["eager", "math", "flash", "efficient", "cudnn", "flex"])
def test_plain_bf16_runs_everywhere_on_h100(backend: str) -> None:
    assert reasons(f"{backend} bf16 static") == ""


FP8 = {"quantization": "fp8_dynamic"}
GRAPH = {"execution": "cuda_graph"}
GROUPED = {"kv_heads": 4}
TRAIN = {"phase": "train"}


@pytest.mark.parametrize(
    ("expected", "words", "given"),
    [
        ("flash takes bf16 or fp16, not fp32", "flash fp32 static", {}),
        ("cudnn takes bf16 or fp16, not tf32", "cudnn tf32 static", {}),
        ("flash takes no bias, and alibi", "flash bf16 static", {"score_mod": "alibi"}),
        ("softcap:50 is not additive", "cudnn bf16 static", {"score_mod": "softcap"}),
        ("efficient needs kv_heads equal", "efficient bf16 static", GROUPED),
        ("", "efficient bf16 static", {**GROUPED, "gqa": "repeat_kv"}),
        ("multiples of 8 at bf16, got 20", "cudnn bf16 static", {"head_dim": 20}),
        ("head_dim up to 256 here, got 512", "flash bf16 static", {"head_dim": 512}),
        ("up to 128 here, got 192", "cudnn bf16 static", {"head_dim": 192, "profile": "a100"}),
        ("flex needs head_dim of at least 16", "flex bf16 static", {"head_dim": 8}),
        (
            "flex needs head_dim of at least 32",
            "flex fp32 static",
            {"head_dim": 16, "profile": "cpu"},
        ),
        ("tf32 does not exist on cpu", "math tf32 static", {"profile": "cpu"}),
        ("cudnn does not exist on cpu", "cudnn bf16 static", {"profile": "cpu"}),
        ("flex has no backward on cpu", "flex fp32", {**TRAIN, "profile": "cpu"}),
        ("", "flex bf16", TRAIN),
        ("ring needs a sliding_window, got none", "flash bf16 ring", {}),
        ("", "flash bf16 ring", {"score_mod": "sliding_window:20"}),
        ("looks at positions", "eager bf16 ring", {"score_mod": "alibi+sliding_window:20"}),
        ("takes no block table", "flash bf16 paged", {}),
        ("", "flex bf16 paged", {}),
        ("needs cache static, not concat", "math bf16 concat", GRAPH),
        ("takes no mask, which hides", "flash bf16 static", GRAPH),
        ("captures no backward", "math bf16", {**GRAPH, **TRAIN}),
        ("cuda_graph does not exist on cpu", "math bf16 static", {**GRAPH, "profile": "cpu"}),
        ("cannot be compiled", "flex fp32 static", {"execution": "compiled", "profile": "cpu"}),
        ("needs compute capability 8.9", "math bf16 static", {**FP8, "profile": "a100"}),
        ("", "math fp16 static", FP8),
        ("takes no weight of 128 × 128", "math bf16 static", {**FP8, "q_heads": 2}),
        ("", "math bf16 static", {**FP8, "q_heads": 2, "hidden_size": 256}),
        ("multiples of 16, got 72", "math bf16 static", {**FP8, "hidden_size": 72}),
        ("needs 17 tokens in a step, got 1", "math bf16 static", {"quantization": "int8_dynamic"}),
        ("", "math bf16 none", {"quantization": "int8_dynamic"}),
        ("no gradients to train", "math bf16", {"quantization": "int8_weight_only", **TRAIN}),
        ("ptdq_int8 does not exist on cuda", "math fp32 static", {"quantization": "ptdq_int8"}),
    ],
)
def test_each_limit_is_a_reason_in_words(
    expected: str, words: str, given: dict[str, object]
) -> None:
    found = reasons(words, **given)  # type: ignore[arg-type]
    assert expected in found
    assert bool(expected) == bool(found)


def test_what_is_missing_or_failed_here_is_a_reason() -> None:
    quantized = configured(Workload(), "math bf16 static", quantization="int8_weight_only")
    without = H100.model_copy(update={"torchao": None})
    assert unsupported_reasons(quantized, without) == (
        "quantization int8_weight_only needs torchao, which is not installed",
    )
    failing = H100.model_copy(update={"failed_quantizations": {"int8_weight_only": "no kernel"}})
    assert "fails here: no kernel" in unsupported_reasons(quantized, failing)[0]


def test_flex_on_cpu_needs_a_compiler() -> None:
    device = DEVICE_PROFILES["cpu"].device.model_copy(update={"cpp_compiler": False})
    configuration = configured(Workload(phase=Phase.PREFILL, seq_len=8), "flex fp32")
    assert "needs a C++ compiler" in unsupported_reasons(configuration, device)[0]


def test_default_is_what_pytorch_gives() -> None:
    decode = default_variant(Workload(), H100)
    assert decode.key == "auto/bf16/none/concat/same/eager"
    softcap = default_variant(Workload(score_mod="softcap", phase=Phase.PREFILL), H100)
    assert softcap.key == "eager/bf16/none/eager"
    assert default_variant(Workload(), DEVICE_PROFILES["cpu"].device).precision == "fp32"


def test_heads_must_divide() -> None:
    with pytest.raises(ValueError, match="q_heads must be a multiple of kv_heads, got 16 and 3"):
        Workload(kv_heads=3)


def test_inactive_axes_are_not_part_of_the_key() -> None:
    prefill = Workload(phase=Phase.PREFILL, seq_len=64, new_tokens=4)
    assert prefill == Workload(phase=Phase.PREFILL, seq_len=64, new_tokens=8)
    with pytest.raises(ValueError, match="cache must be absent"):
        Configuration(
            workload=prefill, variant=Variant(backend="math", precision="fp32", cache="static")
        )
