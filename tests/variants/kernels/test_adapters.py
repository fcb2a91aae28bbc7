"""What the adapters of packages' kernels hand over, by kernels that are written out on a CPU.

The numbers that come out are compared with the reference, as in the contract tests.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from objectives.metrics.accuracy import relative_error
from objectives.trial.outcomes import outcome_of_error
from tests.combinations import LONG, MODES, Q_HEADS, configure
from tests.variants.kernels.conftest import VERSIONS
from tests.variants.kernels.reference_kernels import CALLS
from tests.variants.test_contract import is_quantized, limit, reference, run_and_compare
from variants.axes import VARIANT_AXES
from variants.backends.fp8_query import rounded_query
from variants.configuration import Configuration
from variants.device import DEVICE_PROFILES, Device
from variants.layer import layer as layer_module
from variants.layer.run import Run
from variants.support import unsupported_reasons
from variants.workload import Phase, Workload

pytestmark = pytest.mark.usefixtures("on_cpu")

CPU = DEVICE_PROFILES["cpu"].device.model_copy(update={"kernel_packages": VERSIONS})
SHAPE = LONG | {"seq_len": 45, "new_tokens": 2}
MODS = ("none", "sliding_window:30", "sliding_window:1", "softcap:2")
KINDS = ("same", "fp8", "int8")


def declared(backend: str, device: Device = CPU) -> list[Configuration]:
    """Every precision × mode × score_mod × heads × kv_dtype that it declares on a CPU."""
    found = {}
    for precision in ("bf16", "fp16"):
        for mode in MODES:
            for mod in MODS:
                for heads in ("mha", "native", "repeat_kv"):
                    for kind in KINDS if mod != "sliding_window:1" else ("same",):
                        factors = {"backend": backend, "precision": precision, "mode": mode}
                        factors |= {"score_mod": mod, "heads": heads, "kv_dtype": kind}
                        configuration = configure(factors, SHAPE)
                        if not reasons_on_gpu(configuration):
                            found[configuration.key] = configuration
    return list(found.values())


def reasons_on_gpu(configuration: Configuration) -> tuple[str, ...]:
    h100 = DEVICE_PROFILES["h100"].device.model_copy(update={"kernel_packages": VERSIONS})
    return unsupported_reasons(configuration, h100)


# Collected before the backends are declared on a CPU.
ALL = [pytest.param(c, id=c.key) for name in ("fa3", "cudnn_graph") for c in declared(name)]


@pytest.mark.parametrize("configuration", ALL)
def test_every_declared_combination_agrees_with_the_reference(
    configuration: Configuration,
) -> None:
    error, ran = run_and_compare(configuration, "cpu")
    assert error <= limit(configuration, "cpu")
    assert ran == configuration.variant.backend


class PlainGraph:
    """A captured step that is computed anew each time, its position on the device."""

    def __init__(self, step: Any, hidden: Tensor, *, position: int = 0) -> None:
        self._step, self._position = step, torch.tensor([position])

    def replay(self, hidden: Tensor, position: int | None) -> Tensor:
        assert position == int(self._position)
        out: Tensor = self._step(hidden, self._position)
        return out


@pytest.mark.parametrize(
    "configuration",
    [p for p in ALL if p.values[0].variant.cache == "static"],  # type: ignore[attr-defined]
)
def test_a_step_whose_position_the_device_knows_is_the_same_step(
    configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = Configuration.of(
        configuration.workload,
        configuration.variant.model_dump(exclude_none=True) | {"execution": "cuda_graph"},
    )
    assert not reasons_on_gpu(captured)
    monkeypatch.setattr(layer_module, "Graph", PlainGraph)
    usual, fixed = (Run(c, torch.device("cpu"), 3) for c in (configuration, captured))
    for step in range(usual.steps):
        assert relative_error(fixed.step(step).cpu(), usual.step(step).cpu()) < 2e-3
    width = 64
    shapes = {
        call["k"].shape[1] for call in CALLS if "k" in call and call["seqused_k"] is not None
    }
    if configuration.variant.backend == "fa3":  # the whole buffer, and how much of it is valid
        assert shapes == {fixed.layer.capacity + 1}
        lengths = [call["seqused_k"].tolist() for call in CALLS if call["seqused_k"] is not None]
        assert lengths[-1] == [fixed.layer.capacity] * 2
    assert width == configuration.workload.head_dim


@pytest.mark.parametrize("q_len", [1, 3, 7])
def test_a_windows_keys_are_ours(q_len: int) -> None:
    """Ours counts the row's own key, theirs the keys before it."""
    of = Workload(phase=Phase.PREFILL, batch=1, seq_len=q_len, q_heads=2, head_dim=64,
                  hidden_size=32, score_mod="sliding_window:4")  # fmt: skip
    run = Run(
        Configuration.of(of, {"backend": "fa3", "precision": "bf16"}), torch.device("cpu"), 0
    )
    run.step(0)
    assert (CALLS[-1]["window_size_left"], CALLS[-1]["window_size_right"]) == (3, 0)
    assert CALLS[-1]["build"] == "flash_attn_3"
    assert CALLS[-1]["is_causal"]


def test_the_build_is_the_one_that_can() -> None:
    def build(precision: str, head_dim: int, **fields: Any) -> str:
        of = Workload(phase=Phase.PREFILL, batch=1, seq_len=9, q_heads=2, head_dim=head_dim,
                      hidden_size=32, **fields)  # fmt: skip
        choice = {"backend": "fa3", "precision": precision}
        Run(Configuration.of(of, choice), torch.device("cpu"), 0).step(0)
        return str(CALLS[-1]["build"])

    assert build("bf16", 128) == build("fp16", 96) == "flash_attn_3"
    assert build("bf16", 96) == "fa3_fwd"  # the other would compute 128
    assert build("bf16", 128, score_mod="softcap:50") == "fa3_fwd"
    assert build("bf16", 96, score_mod="sliding_window:4") == "flash_attn_3"


def test_nothing_is_copied_for_a_kernel() -> None:
    """Keys and values are read in the cache itself, whatever its layout."""
    for cache in ("concat", "static", "paged"):
        for kind in ("same", "fp8"):
            CALLS.clear()
            factors = {"backend": "fa3", "precision": "bf16", "mode": cache, "kv_dtype": kind}
            run = Run(configure({**factors, "score_mod": "none"}, SHAPE), torch.device("cpu"), 3)
            run.step(0)
            held = run.layer.cache
            assert held is not None
            starts = {plane.untyped_storage().data_ptr() for plane in held.planes}
            used = {CALLS[-1][name].untyped_storage().data_ptr() for name in ("k", "v")}
            assert used == starts


def test_float8_queries_come_back_to_what_they_were() -> None:
    torch.manual_seed(0)
    query = torch.randn(2, 6, 3, 32, dtype=torch.bfloat16) * torch.tensor([1e-3, 400.0])[
        :, None, None, None
    ].to(torch.bfloat16)
    query[0, :2] = 0
    rounded, scale = rounded_query(query, 3)
    assert rounded.shape == (2, 3, 6, 32)
    assert rounded.is_contiguous()
    assert rounded.float().abs().amax(dim=(1, 2, 3)).tolist() == [448.0, 448.0]
    back = rounded.float().transpose(1, 2) * scale.repeat_interleave(2, dim=1)[:, :, None, None]
    error = (back - query.float()).abs()
    largest = query.float().abs().amax(dim=(2, 3), keepdim=True)
    assert (error <= query.float().abs() * 2.0**-4 + largest * 2.0**-18).all()


def test_one_plan_serves_all_lengths_and_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    of = Workload(batch=2, seq_len=40, new_tokens=20, q_heads=4, kv_heads=2, head_dim=64,
                  hidden_size=48)  # fmt: skip
    chosen = {"backend": "cudnn_graph", "precision": "bf16", "cache": "static"}
    configuration = Configuration.of(of, chosen)
    run = Run(configuration, torch.device("cpu"), 3)
    cudnn = sys.modules["cudnn"]
    cudnn.BUILT.clear()
    outs = torch.cat([run.step(index) for index in range(run.steps)], dim=1)
    assert len(cudnn.BUILT) == 1
    assert [int(call["lengths"].flatten()[0]) for call in CALLS] == list(range(41, 61))
    assert {call["stream"] for call in CALLS} == {7}
    assert relative_error(outs.float().cpu(), reference(of, "cpu")["out"]) < 0.03
    Run(configuration, torch.device("cpu"), 3).step(0)
    assert len(cudnn.BUILT) == 1
    other = Configuration.of(of, chosen | {"precision": "fp16"})
    Run(other, torch.device("cpu"), 3).step(0)
    assert len(cudnn.BUILT) == 2
    monkeypatch.setattr(cudnn, "refuse_all", True)
    more = Configuration.of(of.model_copy(update={"batch": 3}), chosen)
    with pytest.raises(RuntimeError, match="is not supported: No valid execution plans") as error:
        Run(more, torch.device("cpu"), 3).step(0)
    assert outcome_of_error(error.value) is not None  # refused


def test_axes_that_matter_are_all_in_the_combinations() -> None:
    tried = {axis for p in ALL for axis, v in p.values[0].variant if v is not None}  # type: ignore[attr-defined]
    assert tried == set(VARIANT_AXES) - {a for a, axis in VARIANT_AXES.items() if axis.backends}
    assert any(is_quantized(p.values[0]) for p in ALL)  # type: ignore[arg-type]
    assert Q_HEADS == 4
