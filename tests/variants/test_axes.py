"""What follows from the declaration of an axis."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from search.options.command_options import AxisTexts, with_options
from variants.axes import AXES, VARIANT_AXES, WORKLOAD_AXES
from variants.backends import Support, Takes
from variants.configuration import active_choices, inactive_axes
from variants.deploy.model_choice import MODEL_AXES, ModelChoice
from variants.gqa import GQA, grouped_heads
from variants.kv_dtypes import KeyValue
from variants.variant import Variant
from variants.workload import Phase, Workload

ROOT = Path(__file__).parents[2]


def test_axes_are_in_the_order_of_the_models() -> None:
    assert tuple(WORKLOAD_AXES) == tuple(Workload.model_fields)
    assert tuple(VARIANT_AXES) == tuple(Variant.model_fields)
    assert tuple(AXES) == (*WORKLOAD_AXES, *VARIANT_AXES)
    assert set(MODEL_AXES) == set(ModelChoice.model_fields) <= set(VARIANT_AXES)


@pytest.mark.parametrize("axis", VARIANT_AXES.values(), ids=lambda axis: axis.name)
def test_what_is_searched_is_a_choice(axis: object) -> None:
    declared = VARIANT_AXES[axis.name]  # type: ignore[attr-defined]
    for kind in ("cpu", "cuda"):
        searched = declared.searched_unless_named(kind)
        assert searched
        assert set(searched) <= set(declared.known)
    assert set(declared.reads) <= set(VARIANT_AXES)


@pytest.mark.parametrize(
    ("workload", "cache", "inactive"),
    [
        (Workload(kv_heads=4), "static", set()),
        (Workload(kv_heads=4), "none", {"kv_dtype"}),
        (Workload(kv_heads=4), None, {"kv_dtype"}),
        (Workload(), "static", {"gqa"}),
        (Workload(phase=Phase.PREFILL), "static", {"cache", "kv_dtype", "gqa"}),
        (Workload(phase=Phase.TRAIN, kv_heads=4), None, {"cache", "kv_dtype"}),
    ],
)
def test_an_axis_is_active_where_it_means_something(
    workload: Workload, cache: str | None, inactive: set[str]
) -> None:
    chosen = {"cache": cache}
    alone = {name for name, axis in VARIANT_AXES.items() if axis.backends}  # none is chosen
    assert inactive_axes(workload, chosen) == inactive | alone
    assert active_choices(workload, chosen).keys() == VARIANT_AXES.keys() - inactive - alone


def test_each_choice_of_gqa_gives_every_query_head_its_own_keys() -> None:
    import torch

    workload = Workload(q_heads=6, kv_heads=2, head_dim=4)
    kv = KeyValue(*torch.randn(2, 3, 2, 5, 4))
    for entry in GQA.values():
        given = entry.given(kv, 3)
        assert given.key.shape == (3, entry.kv_heads(workload), 5, 4)
        shares = 6 // given.key.shape[1]
        for head in range(6):
            torch.testing.assert_close(given.key[:, head // shares], kv.key[:, head // 3])
            torch.testing.assert_close(given.value[:, head // shares], kv.value[:, head // 3])
    assert grouped_heads(None).given(kv, 1) is kv


def test_a_backend_that_takes_no_grouped_heads_is_told_how_to_get_others() -> None:
    support = Support(precisions=("bf16",), takes=Takes.PLAIN, grouped_heads=False)
    (reason,) = GQA["native"].reasons("some", support)
    assert reason.startswith("backend some needs kv_heads equal to q_heads, or gqa repeat_kv")
    assert not list(GQA["repeat_kv"].reasons("some", support))


def test_a_command_has_an_option_for_each_axis() -> None:
    import typer
    from typer.testing import CliRunner

    seen = {}
    app = typer.Typer()

    @app.command()
    @with_options
    def toy(*, axes: AxisTexts, after: bool = False) -> None:
        seen.update(axes, after=after)

    arguments = [part for axis in AXES for part in ("--" + axis.replace("_", "-"), f"of {axis}")]
    assert CliRunner().invoke(app, [*arguments, "--after"]).exit_code == 0
    assert seen == {axis: f"of {axis}" for axis in AXES} | {"after": True}
    assert CliRunner().invoke(app, []).exit_code == 0
    assert seen == dict.fromkeys(AXES) | {"after": False}


def test_an_axis_of_one_backend_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.variants.toy_axis"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    facts = json.loads(done.stdout)
    assert facts["fields"] == [*Variant.model_fields, "tiles"]
    assert facts["schema"] == sorted([*Variant.model_fields, "tiles"])
    flex = "flex/bf16/none/static/same/eager"
    # At its default the key is the one from before there was such an axis.
    assert facts["keys"] == [flex, f"{flex}/wide", "flash/bf16/none/static/same/eager"]
    assert facts["read"]
    assert facts["again"] == f"{flex}/wide"
    assert "tiles must be absent" in facts["refused"]
    assert facts["labels"] == ["flex bf16 static", "flex bf16 static wide"]
    assert facts["rank"]
    assert facts["entry"] == [128, None]
    assert facts["default"] == ["usual"]
    assert facts["reasons"] == [[], ["tiles wide does not exist on cpu"]]
    assert facts["tried"] == [["flash", None], ["flex", "usual"], ["flex", "wide"]]
    assert facts["found"]
    assert facts["help"] == "of the kernel (of flex alone); a choice or a list. [default: usual]"
    assert facts["docs"]
    assert facts["columns"] == ["flex"]
