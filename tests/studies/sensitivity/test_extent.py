"""Effects of very large spaces are averages over a part of the workloads."""

from __future__ import annotations

import numpy as np
import pytest

from studies.sensitivity.extent import extent_of
from studies.space.catalogue import Catalogue, catalogue_of
from studies.space.space import SearchSpace, survey
from variants.device import DEVICE_PROFILES

AXES: dict[str, tuple[int | str, ...]] = {
    "phase": ("decode", "prefill"),
    "batch": (16, 1, 4, 2, 8),
    "seq_len": (512, 1024, 2048),
    "score_mod": ("none", "alibi"),
    "backend": ("math", "flash", "flex"),
    "precision": ("bf16", "fp16"),
    "cache": ("none", "static"),
}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return catalogue_of(survey(SearchSpace(axes=AXES), DEVICE_PROFILES["h100"].device))


def choices_in(catalogue: Catalogue, rows: np.ndarray, name: str) -> set[object]:
    codes = catalogue.codes[rows, list(catalogue.choices).index(name)]
    return {catalogue.choices[name][code - 1] for code in codes if code}


def test_a_space_that_is_not_large_is_looked_at_whole(catalogue: Catalogue) -> None:
    extent = extent_of(catalogue, len(catalogue))
    assert extent.rows.tolist() == list(range(len(catalogue)))
    assert extent.kept == {}
    assert extent.text(len(catalogue)) == ""


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2, 0.1])
def test_a_part_is_a_grid_of_whole_workloads(catalogue: Catalogue, share: float) -> None:
    most = int(share * len(catalogue))
    extent = extent_of(catalogue, most)
    assert 0 < len(extent.rows) <= most
    # Whole workloads, so that every choice of the variant is there as often as before.
    for number in np.unique(catalogue.workloads[extent.rows]):
        assert np.isin(catalogue.of_workload(int(number)), extent.rows).all()
    # Any of the choices that are left beside any other.
    left = {name: choices_in(catalogue, extent.rows, name) for name in AXES}
    workloads = len(np.unique(catalogue.workloads[extent.rows]))
    assert workloads == np.prod([len(left[n]) for n in ("phase", "batch", "seq_len", "score_mod")])
    assert {name: set(choices) for name, choices in extent.kept.items()} == {
        name: left[name] for name in extent.kept
    }
    assert all(left[name] == set(AXES[name]) for name in AXES if name not in extent.kept)


def test_numbers_are_thinned_first_and_keep_their_ends(catalogue: Catalogue) -> None:
    extent = extent_of(catalogue, len(catalogue) // 2)
    assert extent.kept.keys() <= {"batch", "seq_len"}
    assert all(
        {min(v), max(v)} <= set(extent.kept[n]) for n, v in AXES.items() if n in extent.kept
    )
    said = extent.text(len(catalogue))
    assert f"averages over {len(extent.rows):,} of {len(catalogue):,} possible" in said
    assert "batch 1, " in said


def test_variants_stay_whole_even_where_one_workload_is_too_many(catalogue: Catalogue) -> None:
    extent = extent_of(catalogue, 1)
    assert len(np.unique(catalogue.workloads[extent.rows])) == 1
    assert choices_in(catalogue, extent.rows, "backend") == set(AXES["backend"])
