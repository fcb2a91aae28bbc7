"""What a file promises a model: made-up numbers with a known sum."""

from __future__ import annotations

import pytest
from optuna.storages import InMemoryStorage

from objectives.in_model.schema import InModel, TakenInModel
from studies.export.document import Export, build_export
from studies.export.promise import (
    InModelError,
    is_slower,
    loaded_fields,
    promises,
    served_layers,
)
from studies.results.results import read_results
from tests.studies.export.test_verification import OtherBench
from tests.studies.session.test_session import run, session
from variants.models import Model

AXES = {
    "phase": ("decode",),
    "batch": (1, 8),
    "seq_len": (512, 4096),
    "q_heads": (8,),
    "kv_heads": (2,),
    "head_dim": (64,),
    "layers": (4,),
    "score_mod": ("none",),
    "backend": ("cudnn",),
    "precision": ("bf16",),
    "cache": ("static",),
    "execution": ("cuda_graph",),
    "gqa": ("native",),
}
SHAPE = Model(name="m", q_heads=8, kv_heads=2, head_dim=64, hidden_size=512, layers={"none": 10})


def document(**changed: tuple[int | str, ...]) -> Export:
    of = session(InMemoryStorage(), OtherBench(time=0.5, memory=0.5), axes=AXES | changed)
    run(of, 4)
    return build_export(read_results(of.study))


def found(captured: bool, default_ms: float = 9.0, winner_ms: float = 6.0) -> InModel:
    def side(ms: float, rest_ms: float) -> TakenInModel:
        return TakenInModel(ms=(ms, ms, 9 * ms), peak_mib=1.0, rest_ms=rest_ms, first_s=1.0)

    return InModel(
        layers=5,
        layers_named=10,
        captured=captured,
        sides={"default": side(default_ms, 7.0), "winner": side(winner_ms, 3.0)},
    )


def test_attention_as_measured_and_the_rest_are_the_promise() -> None:
    served = served_layers(document(), SHAPE, batch=8, prompt=3000)
    (one,) = served
    assert (one.workload.workload.batch, one.workload.workload.seq_len) == (8, 4096)
    made, why = promises(served, SHAPE, found(captured=True))
    assert why == ""
    latency = one.choice.measurements.latency
    assert latency.gpu is not None
    # The file's time is that of 4 layers, and the model has 5 of its 10.
    assert made["winner"].attention_ms == pytest.approx(latency.gpu.value / 4 * 5)
    assert made["winner"].ms == pytest.approx(made["winner"].attention_ms + 3.0)
    assert made["winner"].deviation(made["winner"].ms * 1.1) == pytest.approx(0.1)


def test_what_is_launched_is_bound_by_the_host_or_by_the_gpu() -> None:
    served = served_layers(document(), SHAPE, batch=1, prompt=512)
    default = served[0].workload.default.measurements
    assert default is not None
    host = default.latency.host.value / 4 * 5  # made up to be as long as the GPU's
    made, _ = promises(served, SHAPE, found(captured=False))
    assert made["default"].ms == pytest.approx(host + 7.0)
    made, _ = promises(served, SHAPE, found(captured=True))
    assert made["default"].ms == pytest.approx(host + 7.0)


def test_a_winner_within_the_margin_is_not_slower() -> None:
    assert not is_slower(found(True, 9.0, 9.1))
    assert is_slower(found(True, 9.0, 9.5))


def test_kinds_of_layers_that_were_not_measured_leave_no_promise() -> None:
    shape = Model(
        name="m", q_heads=8, kv_heads=2, head_dim=64, hidden_size=512,
        layers={"none": 5, "sliding_window:64": 5},
    )  # fmt: skip
    served = served_layers(document(), shape, None, None)
    made, why = promises(served, shape, found(captured=True))
    assert (made, why) == ({}, "decoding with score_mod sliding_window:64 was not measured")


def test_another_models_file_is_refused() -> None:
    shape = Model(
        name="m", q_heads=4, kv_heads=4, head_dim=64, hidden_size=512, layers={"none": 5}
    )
    with pytest.raises(InModelError, match="the heads of m, 4:4 of 64; got 8:2 of 64"):
        served_layers(document(), shape, None, None)


def test_a_dispatch_is_loaded_for_one_shape() -> None:
    file = document()
    served = served_layers(file, SHAPE, 8, 512)
    heads = {"q_heads": 8, "kv_heads": 2, "head_dim": 64}
    assert loaded_fields(file, served) == heads
    dispatched = file.model_copy(update={"pick": "dispatch"})
    fields = loaded_fields(dispatched, served_layers(dispatched, SHAPE, 8, 512))
    assert fields == heads | {"phase": "decode", "batch": 8, "seq_len": 512}
