from __future__ import annotations

import pytest

from search.options.choices import choices_from_toml
from studies.space.defaults import DEFAULT_AXES
from studies.space.presets import preset_names, preset_path, preset_summary
from studies.space.space import Survey, fill_defaults, survey
from variants.device import DEVICE_PROFILES


def surveyed(name: str, profile: str) -> Survey:
    device = DEVICE_PROFILES[profile].device
    choices = choices_from_toml(preset_path(name))
    return survey(fill_defaults(choices, DEFAULT_AXES[device.kind]), device)


@pytest.mark.parametrize("profile", ["cpu", "h100"])
@pytest.mark.parametrize("name", preset_names())
def test_every_preset_has_something_to_measure_everywhere(name: str, profile: str) -> None:
    found = surveyed(name, profile)
    assert all(found.possible.values())
    assert preset_summary(name)


def test_the_experiments_are_there_and_all_of_them_together() -> None:
    assert preset_names() == ("flex-attention", "goldilocks", "kv-cache", "quantization")
    axes = surveyed("goldilocks", "h100").space.searched
    assert {"cache", "kv_dtype", "precision", "quantization", "backend", "execution"} <= set(axes)


def test_named_axes_are_multiplied_and_not_zipped() -> None:
    space = surveyed("kv-cache", "h100").space
    sizes = [len(space.axes[name]) for name in ("batch", "seq_len", "head_dim")]
    assert len(space.workloads()) == sizes[0] * sizes[1] * sizes[2]


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"preset must be one of flex-attention, .*; got kv"):
        preset_path("kv")
