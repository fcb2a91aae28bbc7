"""The tiles of flex: what is declared of them, that each runs as it is named, and in agreement."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from objectives.precompile.queue import CompileQueue
from objectives.schema.evaluation import Outcome
from objectives.schema.limits import Limits
from objectives.trial.evaluator import Evaluator
from studies.space.catalogue import catalogue_of
from studies.space.defaults import DEFAULT_AXES, default_axes
from studies.space.space import SearchSpace, fill_defaults, survey
from tests.configurations import configured
from variants.axes import VARIANT_AXES
from variants.backends import BACKENDS, backend_that_ran
from variants.backends.flex_blocks import BLOCK
from variants.backends.flex_tiles import (
    TILES,
    Tiles,
    TilesError,
    check_strides,
    inductor_options,
)
from variants.configuration import Configuration
from variants.deploy.dispatched_attention import DispatchedAttention
from variants.deploy.loading import LoadError, load
from variants.deploy.loading_schema import SCHEMA_VERSION
from variants.deploy.model_choice import ModelChoice
from variants.detect import detect_device
from variants.device import DEVICE_PROFILES, Device
from variants.kv_dtypes import KeyValue
from variants.layer.run import Run
from variants.support import unsupported_reasons
from variants.variant import Variant
from variants.workload import Phase, Workload

SEED = 5
FLASH = {"flash-attn-4": "4.0.0b36", "nvidia-cutlass-dsl": "4.8.1"}
A100, CPU = (DEVICE_PROFILES[name].device for name in ("a100", "cpu"))
H100 = DEVICE_PROFILES["h100"].device.model_copy(update={"kernel_packages": FLASH})
DECODE = Workload(batch=2, seq_len=150, new_tokens=3, q_heads=8, kv_heads=2, head_dim=64)
PREFILL = DECODE.model_copy(update={"phase": Phase.PREFILL, "new_tokens": 1})
NAMED = [tiles for tiles in TILES.registry.values() if tiles.options is not None]
ONE_ROW = [tiles.name for tiles in NAMED if tiles.steps == "decode"]
MANY_ROWS = [tiles.name for tiles in NAMED if tiles.steps == "prompt"]


def with_tiles(name: str, precision: str = "bf16", cache: str = "static", **given: Any) -> Any:
    """Fields of the workload and choices; a step that is right for the tiles if none is said."""
    choices = {axis: given.pop(axis) for axis in tuple(given) if axis in VARIANT_AXES}
    base = PREFILL if name in MANY_ROWS else DECODE
    workload = Workload.model_validate(base.model_dump() | given)
    return configured(workload, f"flex {precision} {cache}", tiles=name, **choices)


def reasons(name: str, device: Device = H100, **given: Any) -> str:
    return "; ".join(unsupported_reasons(with_tiles(name, **given), device))


# Declarations


def test_a_name_says_what_the_kernel_is_told() -> None:
    option = {
        "m": "fwd_BLOCK_M",
        "n": "fwd_BLOCK_N",
        "w": "fwd_num_warps",
        "s": "fwd_num_stages",
        "split": "SPLIT_KV",
    }
    seen = 0
    for tiles in NAMED:
        told = {key: n for key, n in (tiles.options or {}).items() if isinstance(n, int)}
        loads = told.pop("fwd_USE_TMA", False)
        assert loads == tiles.tma == tiles.name.endswith("tma")
        parts = re.findall(r"(split|[mnws])(\d+)", tiles.name.removesuffix("tma"))
        seen += bool(parts)
        assert {option[letter]: int(number) for letter, number in parts} == told
    assert seen > 15
    assert TILES.registry[TILES.default].options is None


def test_blocks_of_tiles_divide_those_of_the_mask() -> None:
    for tiles in NAMED:
        for name in ("fwd_BLOCK_M", "fwd_BLOCK_N"):
            assert BLOCK % (tiles.options or {}).get(name, BLOCK) == 0


@pytest.mark.parametrize("tiles", NAMED, ids=lambda tiles: tiles.name)
def test_all_run_on_an_h100_and_none_on_a_cpu(tiles: Tiles) -> None:
    assert reasons(tiles.name) == ""
    assert reasons(tiles.name, CPU) == f"tiles {tiles.name} does not exist on cpu"


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("n64w2s3", {"phase": "prefill"}, "is for decode with a cache, whose steps have one row"),
        ("n64w2s3", {"cache": "none"}, "is for decode with a cache, whose steps have one row"),
        ("triton", {"phase": "prefill"}, "is for decode with a cache"),
        ("m64n64w4s3", {"phase": "decode"}, "is for prefill and train, not for decode"),
        ("m64n64w4s3", {"phase": "decode", "cache": "none"}, "is for prefill and train"),
        ("m64n64w4s3", {"phase": "train"}, ""),
        ("flash", {"phase": "train"}, "tiles flash has no backward here"),
        ("n64w2s3", {"q_heads": 6}, "power of two query heads to a key/value head, got 3"),
        ("n64w2s3", {"q_heads": 6, "gqa": "repeat_kv"}, ""),
        ("triton", {"q_heads": 6}, ""),
        ("m64n64w4s3", {"q_heads": 6}, ""),
        ("tma", {"device": A100}, "tiles tma needs compute capability 9.0, this device has 8.0"),
        ("tma", {"head_dim": 20}, "needs head_dim in multiples of 8, got 20"),
        ("tma", {"head_dim": 20, "precision": "fp32"}, ""),
        ("m64n64w4s3", {"precision": "tf32"}, "takes numbers of 16 bits, got 32"),
        ("n64w2s3", {"precision": "fp32"}, ""),
        (
            "m128n128w8s2",
            {"head_dim": 256},
            "m128n128w8s2 needs 327680 bytes of shared memory at head_dim 256 and 16 bits, "
            "this device has 232448",
        ),
        ("m64n64w4s3", {"head_dim": 256}, ""),
        ("m128n128w8s3tma", {"head_dim": 96}, ""),
        ("n64w2s3", {"head_dim": 256}, ""),
        ("n64w2s3", {"head_dim": 256, "precision": "fp32"}, "needs 278528 bytes of shared mem"),
        ("n128w4s3", {"head_dim": 256, "kv_dtype": "fp8"}, ""),
        ("n128w4s3", {"head_dim": 256, "device": A100}, ""),  # it is seen when it is compiled
        ("flash", {"score_mod": "document:20"}, "tiles flash cannot compute score_mod document"),
        ("flash", {"score_mod": "softcap:2+sliding_window:30"}, ""),
        ("m64n64w4s3", {"head_dim": 20, "device": A100}, ""),
        ("flash", {"precision": "fp32"}, "tiles flash takes numbers of 16 bits, got 32"),
        ("flash", {"head_dim": 256}, "tiles flash takes head_dim up to 128, got 256"),
        ("flash", {"head_dim": 96}, ""),
    ],
)
def test_what_tiles_cannot_do_has_a_reason(
    name: str, given: dict[str, Any], expected: str
) -> None:
    found = reasons(name, **given)
    assert expected in found
    assert bool(found) == bool(expected)


def test_flash_needs_its_packages() -> None:
    one = H100.model_copy(update={"kernel_packages": {"flash-attn-4": "4.0.0b36"}})
    none = H100.model_copy(update={"kernel_packages": {}})
    assert reasons("flash", one) == "tiles flash needs nvidia-cutlass-dsl, which is not installed"
    assert reasons("flash", none).startswith("tiles flash needs flash-attn-4, which is not inst")
    assert reasons("m64n64w4s3", none) == ""


# The space


def chosen(variant: Variant) -> str:
    tiles = TILES.of(variant)
    return "" if tiles is None else tiles.name


def choices_in(space: SearchSpace, device: Device) -> dict[str, set[str]]:
    """Which tiles of flex are possible, by phase."""
    found = survey(space, device)
    return {
        workload.phase.value: {
            chosen(variant)
            for variant in found.possible[workload.key]
            if variant.backend == "flex"
        }
        for workload in found.workloads
    }


def test_the_default_space_has_a_few_tiles_of_each_phase() -> None:
    space = fill_defaults({"phase": ("prefill", "decode")}, default_axes(H100))
    assert choices_in(space, H100) == {
        "decode": {"default", "n64w2s3"},
        "prefill": {"default", "m64n64w4s3", "m128n128w8s2tma", "flash"},
    }
    recomputing = fill_defaults({"cache": ("none",)}, DEFAULT_AXES["cuda"])
    assert choices_in(recomputing, H100) == {"decode": {"default"}}
    without = H100.model_copy(update={"kernel_packages": {}})
    assert "flash" not in choices_in(space, without)["prefill"]


def test_the_default_space_of_a_cpu_knows_no_tiles() -> None:
    space = fill_defaults({}, DEFAULT_AXES["cpu"])
    assert "tiles" not in space.searched
    found = survey(space, CPU)
    assert not any("tiles" in reason for reason in found.impossible)
    without = SearchSpace(axes={n: c for n, c in space.axes.items() if n != "tiles"})
    keys = [of.key for of in survey(without, CPU).configurations()]
    assert [of.key for of in found.configurations()] == keys
    catalogue, before = catalogue_of(found), catalogue_of(survey(without, CPU))
    assert catalogue.choices == before.choices
    assert (catalogue.codes == before.codes).all()


def test_tiles_are_a_column_that_other_backends_leave_empty() -> None:
    given = {"phase": ("decode",), "cache": ("static",), "backend": ("flash", "flex")}
    found = survey(fill_defaults(given, DEFAULT_AXES["cuda"]), H100)
    catalogue = catalogue_of(found)
    column = list(catalogue.choices).index("tiles")
    backend = list(catalogue.choices).index("backend")
    by_backend = {
        code: set(catalogue.codes[catalogue.codes[:, backend] == code][:, column].tolist())
        for code in (1, 2)
    }
    assert by_backend == {1: {0}, 2: {1, 2}}
    assert all(catalogue.find(catalogue.params(i)) == i for i in range(len(catalogue)))


@pytest.mark.parametrize("name", ["n64w2s3", "m64n64w4s3", "flash"])
def test_a_cpu_refuses_what_it_would_pass_over(name: str) -> None:
    of = with_tiles(name, "fp32", batch=1, seq_len=20)
    found = Evaluator(detect_device("cpu"), Limits(sampling_s=0.01), seed=0).evaluate(of)
    assert found.outcome is Outcome.REFUSED
    assert found.reason == f"not supported: tiles {name} does not exist on cpu"


def test_only_its_own_kernel_proves_flash() -> None:
    variant = with_tiles("flash").variant
    own = variant.own_kernel
    assert own is not None
    assert own.choice == "tiles flash"
    flash = "kernel_cutlass_kernel_flash_attncuteflash_fwd_sm90FlashAttentionForwardSm90_object_at"
    triton = "triton_tem_fused_flex_attention_0"
    assert backend_that_ran([flash], "cuda", "flex", own.pattern) == "flex"
    assert backend_that_ran([triton], "cuda", "flex", own.pattern) is None
    sdpa = "aten::_scaled_dot_product_flash_attention"
    assert backend_that_ran([sdpa, triton], "cuda", "flex", own.pattern) == "flash"
    for name in ("default", "n64w2s3", "tma"):
        assert with_tiles(name).variant.own_kernel is None
    assert configured(DECODE, "flash bf16 static").variant.own_kernel is None
    assert backend_that_ran([triton], "cuda", "flex") == "flex"


# How they reach the kernel


def flex_of(of: Configuration) -> Any:
    return Run(of, torch.device("cpu"), SEED).layer._backend


@pytest.mark.parametrize("name", ["default", *ONE_ROW, *MANY_ROWS])
def test_the_kernel_is_told_the_options(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flex = flex_of(configured(DECODE, "flex fp32 static"))
    told: list[Mapping[str, Any] | None] = []

    def call(query: torch.Tensor, *given: Any, **options: Any) -> torch.Tensor:
        told.append(options["kernel_options"])
        return query

    flex._tiles, flex._call = TILES.registry[name], call
    query = torch.zeros(2, 8, 1, 64)
    mask = flex.mask(flex._attention.places[0])
    flex.attend(query, KeyValue(*torch.zeros(2, 2, 2, 151, 64)), mask)
    assert told == [TILES.registry[name].options]


@pytest.mark.parametrize(
    ("shape", "cache"),
    [(DECODE, "static"), (DECODE, "concat"), (DECODE, "paged"), (DECODE, "none"), (PREFILL, "")],
)
def test_each_call_has_a_mask_of_blocks(shape: Workload, cache: str) -> None:
    # Without one, all keys are a single block, which no kernel splits.
    flex = flex_of(configured(shape, f"flex fp32 {cache}"))
    masks = list(flex._masks.values())
    if cache == "paged":
        masks = []
        run = Run(configured(shape, "flex fp32 paged"), torch.device("cpu"), SEED)
        assert run.layer.cache is not None
        masks.append(run.layer._backend.mask(run.layer.cache.place()))
    if cache == "static":
        masks.append(flex.mask_at(torch.tensor([flex._attention.first_position])))
    assert masks
    for mask in masks:
        assert mask.block_mask.BLOCK_SIZE == (BLOCK, BLOCK)
        visited = mask.block_mask.kv_num_blocks + mask.block_mask.full_kv_num_blocks
        assert visited.max() == 2  # of 150 keys


def test_a_mask_of_a_caller_is_one_of_blocks_too() -> None:
    place = Run(configured(DECODE, "flex fp32 static"), torch.device("cpu"), SEED).layer.places()[
        0
    ]
    flex = flex_of(configured(DECODE, "flex fp32 static"))
    visible = torch.ones(2, 1, 1, place.kv_len, dtype=torch.bool)
    mask = flex.mask(place._replace(visible=visible)).block_mask
    assert mask.BLOCK_SIZE == (BLOCK, BLOCK)


@pytest.mark.parametrize(
    ("rows", "groups", "many"),
    [
        (1, 4, False),
        (32, 4, False),
        (33, 4, True),
        (100, 4, True),
        (100, 1, False),
        (300, 1, True),
    ],
)
def test_more_rows_than_a_block_are_not_left_to_the_kernel_for_few(
    rows: int, groups: int, many: bool
) -> None:
    flex = flex_of(configured(DECODE, "flex fp32 static"))
    assert flex._kernel_options(rows) is None  # on a CPU
    flex._attention = replace(flex._attention, device=torch.device("cuda"), kv_heads=8 // groups)
    assert flex._kernel_options(rows) == ({"BACKEND": "TRITON"} if many else None)


def test_rows_that_lie_askew_are_refused_not_loaded_another_way() -> None:
    tma = TILES.registry["tma"]
    straight = torch.zeros(1, 2, 16, 64, dtype=torch.bfloat16)
    check_strides(tma, straight, KeyValue(straight, straight))
    askew = torch.zeros(1, 2, 16, 68, dtype=torch.bfloat16)[..., :64]
    with pytest.raises(TilesError, match="rows that begin at multiples of 16 bytes, got strides"):
        check_strides(tma, straight, KeyValue(askew, straight))
    shifted = torch.zeros(2 * 16 * 64 + 1, dtype=torch.bfloat16)[1:].view(1, 2, 16, 64)
    with pytest.raises(TilesError):
        check_strides(tma, shifted, KeyValue(straight, straight))
    with pytest.raises(TilesError):
        check_strides(tma, straight.transpose(2, 3), KeyValue(straight, straight))


def test_inductor_may_not_leave_out_the_stages_of_tiles() -> None:
    from torch._inductor import config

    told = {
        name: value
        for name, value in inductor_options(TILES.registry["n128w4s3"]).items()
        if hasattr(config.triton, name.removeprefix("triton."))
    }
    if hasattr(config.triton, "dynamic_disable_pipelining"):
        assert told == {"triton.dynamic_disable_pipelining": False}
    assert inductor_options(TILES.registry["n128w4s3"]) == told  # torch.compile takes no others
    assert inductor_options(TILES.registry["default"]) == {}
    flex = flex_of(configured(DECODE, "flex fp32 static"))
    flex._tiles = TILES.registry["n128w4s3"]
    assert BACKENDS["flex"].compile_options("cuda", flex) == told


def test_tiles_are_compiled_ahead_each_for_itself() -> None:
    queue = CompileQueue()
    queue.wish([with_tiles(name) for name in ("default", "n64w2s3", "n64w4s3", "n64w2s3")])
    assert len(queue._wished) == 3


def test_a_loaded_model_is_told_its_tiles() -> None:
    measured = [with_tiles("n64w2s3", "fp32"), with_tiles("m64n64w4s3", "fp32")]
    attention = DispatchedAttention(measured, ModelChoice.of(measured[0].variant), CPU)
    key = torch.zeros(2, 2, 40, 64)
    for rows, name in ((1, "n64w2s3"), (40, "m64n64w4s3")):
        with pytest.raises(TilesError, match=f"tiles {name} does not exist on cpu"):
            attention(torch.zeros(2, 8, rows, 64), key, key)


def test_a_file_with_tiles_is_read_and_checked(tmp_path: Any) -> None:
    import json

    of = with_tiles("n64w2s3", "fp32")
    choice = {"variant": of.variant.model_dump(mode="json"), "resolved_backend": "flex"}
    here = detect_device("cpu").model_dump(mode="json")
    document = {
        "schema_version": SCHEMA_VERSION,
        "environment": {"device": here},
        "pick": "dispatch",
        "prefer": "latency",
        "workloads": [
            {
                "workload": of.workload.model_dump(mode="json"),
                "configurations": [choice],
                "choices": {"lowest_latency": 0},
            }
        ],
        "single": {},
    }
    path = tmp_path / "best.json"
    path.write_text(json.dumps(document))
    with pytest.raises(LoadError, match=r"eager/n64w2s3: tiles n64w2s3 does not exist on cpu"):
        load(path, device="cpu")
