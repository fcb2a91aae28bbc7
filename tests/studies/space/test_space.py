from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from studies.space.defaults import DEFAULT_AXES
from studies.space.space import SearchSpace, SpaceError, fill_defaults, survey
from variants.axes import AXES, VARIANT_AXES
from variants.configuration import Configuration
from variants.device import DEVICE_PROFILES
from variants.support import unsupported_reasons
from variants.variant import Variant
from variants.workload import Workload

H100 = DEVICE_PROFILES["h100"].device


def test_axes_are_the_fields_of_workload_and_variant() -> None:
    assert tuple(AXES) == (*Workload.model_fields, *Variant.model_fields)
    assert tuple(VARIANT_AXES) == tuple(Variant.model_fields)


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_defaults_are_possible_on_every_workload(kind: str) -> None:
    profile = DEVICE_PROFILES["h100" if kind == "cuda" else "cpu"].device
    found = survey(fill_defaults({}, DEFAULT_AXES[profile.kind]), profile)
    assert found.size > 200
    assert all(found.possible.values())


def test_survey_accounts_for_every_combination() -> None:
    space = fill_defaults(
        {"batch": (1, 2), "seq_len": (64,), "phase": ("decode", "prefill")}, DEFAULT_AXES["cuda"]
    )
    found = survey(space, H100)
    total = sum(len(space.variants(workload)) for workload in found.workloads)
    assert found.size + sum(found.impossible.values()) == total
    for workload in found.workloads:
        for variant in found.possible[workload.key]:
            configuration = Configuration(workload=workload, variant=variant)
            assert not unsupported_reasons(configuration, H100)


def test_prefill_has_no_cache_axis_and_no_twins() -> None:
    space = fill_defaults({"phase": ("prefill",), "new_tokens": (4, 8)}, DEFAULT_AXES["cuda"])
    workloads = space.workloads()
    assert len(workloads) == len({workload.key for workload in workloads})
    variants = space.variants(workloads[0])
    assert all(variant.cache is None for variant in variants)
    assert len({variant.key for variant in variants}) == len(variants)
    named = {(variant.backend, variant.precision, variant.execution) for variant in variants}
    assert len(named) == 6 * 4 * 2


def test_parameters_round_trip() -> None:
    space = fill_defaults({"phase": ("decode", "prefill")}, DEFAULT_AXES["cuda"])
    for workload in space.workloads():
        for variant in space.variants(workload):
            every = workload.model_dump(mode="json") | variant.model_dump(exclude_none=True)
            params = {name: every[name] for name in space.searched if name in every}
            again = space.configuration(params)
            assert again == Configuration(workload=workload, variant=variant)


def test_nothing_possible_says_why() -> None:
    space = fill_defaults(
        {"backend": ("flash", "cudnn"), "precision": ("fp32",)}, DEFAULT_AXES["cuda"]
    )
    with pytest.raises(SpaceError, match=r"flash takes bf16 or fp16, not fp32 \(\d+\)"):
        survey(space, H100)


def test_heads_that_do_not_divide_are_one_line() -> None:
    space = fill_defaults({"q_heads": (16,), "kv_heads": (4, 3)}, DEFAULT_AXES["cuda"])
    with pytest.raises(SpaceError, match="q_heads must be a multiple of kv_heads, got 16 and 3"):
        space.workloads()


@pytest.mark.parametrize(
    "axes",
    [{"bach": (1,)}, {"batch": ()}, {"batch": (0,)}, {"batch": ("x",)}, {"backend": ("auto",)}],
)
def test_bad_spaces_are_refused(axes: dict[str, tuple[object, ...]]) -> None:
    with pytest.raises(ValidationError):
        SearchSpace.model_validate({"axes": axes})


@given(st.text(max_size=12), st.sampled_from(sorted(AXES)))
def test_any_text_for_an_axis_is_a_choice_or_a_value_error(text: str, axis: str) -> None:
    try:
        choices = AXES[axis].parse(text)
    except ValueError:
        return
    assert choices == AXES[axis].parse(",".join(map(str, choices)))
