"""H100 rules, asked on any machine."""

from __future__ import annotations

import pytest

from variants.configuration import Configuration, default_variant
from variants.device import DEVICE_PROFILES
from variants.support import unsupported_reasons
from variants.variant import Variant
from variants.workload import Phase, Workload

H100 = DEVICE_PROFILES["h100"].device


def reasons(backend: str, precision: str = "bf16", profile: str = "h100", **fields: object) -> str:
    workload = Workload.model_validate({"seq_len": 64, **fields})
    cache = "static" if workload.decodes else None
    variant = Variant(backend=backend, precision=precision, cache=cache)
    device = DEVICE_PROFILES[profile].device
    return "; ".join(
        unsupported_reasons(Configuration(workload=workload, variant=variant), device)
    )


@pytest.mark.parametrize("backend", ["eager", "math", "flash", "efficient", "cudnn", "flex"])
def test_plain_bf16_runs_everywhere_on_h100(backend: str) -> None:
    assert reasons(backend) == ""


@pytest.mark.parametrize(
    ("expected", "asked"),
    [
        ("flash takes bf16 or fp16, not fp32", {"backend": "flash", "precision": "fp32"}),
        ("cudnn takes bf16 or fp16, not tf32", {"backend": "cudnn", "precision": "tf32"}),
        ("flash takes no bias, and alibi", {"backend": "flash", "score_mod": "alibi"}),
        ("softcap is not additive", {"backend": "cudnn", "score_mod": "softcap"}),
        ("efficient needs kv_heads equal", {"backend": "efficient", "kv_heads": 4}),
        ("multiples of 8 at bf16, got 20", {"backend": "cudnn", "head_dim": 20}),
        ("head_dim up to 256 here, got 512", {"backend": "flash", "head_dim": 512}),
        (
            "head_dim up to 128 here, got 192",
            {"backend": "cudnn", "head_dim": 192, "profile": "a100"},
        ),
        ("flex needs head_dim of at least 16", {"backend": "flex", "head_dim": 8}),
        (
            "tf32 does not exist on cpu",
            {"backend": "math", "precision": "tf32", "profile": "cpu"},
        ),
        ("cudnn does not exist on cpu", {"backend": "cudnn", "profile": "cpu"}),
    ],
)
def test_each_limit_is_a_reason_in_words(expected: str, asked: dict[str, object]) -> None:
    assert expected in reasons(**asked)  # type: ignore[arg-type]


def test_flex_on_cpu_needs_a_compiler() -> None:
    device = DEVICE_PROFILES["cpu"].device.model_copy(update={"cpp_compiler": False})
    configuration = Configuration(
        workload=Workload(phase=Phase.PREFILL, seq_len=8),
        variant=Variant(backend="flex", precision="fp32"),
    )
    assert "needs a C++ compiler" in unsupported_reasons(configuration, device)[0]


def test_default_is_what_pytorch_gives() -> None:
    decode = default_variant(Workload(), H100)
    assert decode.key == "auto/bf16/concat/eager"
    softcap = default_variant(Workload(score_mod="softcap", phase=Phase.PREFILL), H100)
    assert softcap.key == "eager/bf16/eager"
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
