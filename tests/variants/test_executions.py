"""Compiled and captured layers: the same numbers, by what was asked for, prepared once."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from torch.profiler import ProfilerActivity, profile

from objectives.metrics.accuracy import relative_error
from objectives.metrics.kernels import kernels_of_step
from tests.configurations import configured
from variants.backends import BACKENDS, backend_that_ran, flex
from variants.caches import CACHES
from variants.configuration import Configuration
from variants.detect import detect_device
from variants.device import DeviceKind
from variants.executions import EXECUTIONS
from variants.layer.graph import empty_behind
from variants.layer.layer import PROJECTIONS
from variants.layer.run import ALIGNMENT, MIB, Run
from variants.support import unsupported_reasons
from variants.workload import Workload

SEED = 5
# From inside the first block of 128 keys into the second.
ACROSS = Workload(batch=2, seq_len=118, new_tokens=20, q_heads=4, kv_heads=2, head_dim=32)
SHORT = Workload(batch=2, seq_len=5, new_tokens=8, q_heads=4, head_dim=32)
CPU = torch.device("cpu")


def outs_of(configuration: Configuration, kind: DeviceKind, passes: int = 1) -> list[torch.Tensor]:
    """The output of every step, copied: a replay overwrites the one before.

    Every step of a later pass works elsewhere in memory.
    """
    run = Run(configuration, torch.device(kind), SEED)
    outs = []
    for number in range(passes):
        run.restart()
        for index in range(run.steps):
            if number > 0:
                run.move((number * run.steps + index) / (passes * run.steps))
            outs.append(run.step(index).clone())
    return outs


@pytest.mark.parametrize("words", ["math fp32 static", "eager bf16 concat", "flash fp32 static"])
def test_steps_that_work_elsewhere_come_to_the_same(words: str) -> None:
    outs = outs_of(configured(SHORT, words), "cpu", passes=2)
    for here, elsewhere in zip(outs[:8], outs[8:], strict=True):
        assert torch.equal(here, elsewhere)


@pytest.mark.parametrize("words", ["math fp32 static", "eager bf16 concat"])
def test_inputs_lie_anywhere_in_a_mib(words: str) -> None:
    run = Run(configured(SHORT, words), CPU, SEED)
    assert run.moves
    places = []
    for share in (0.0, 0.25, 0.5, 0.9999):
        assert not run.move(share)  # nothing is captured
        places.append(run._inputs[0].data_ptr())
    first, *others = (place - places[0] for place in places)
    assert all(place % ALIGNMENT == 0 for place in others)
    room = MIB - run._hidden.nbytes
    assert [first, *others] == pytest.approx([0, room / 4, room / 2, room], abs=2 * ALIGNMENT)
    assert others[-1] <= room


LARGE = Workload(batch=128, seq_len=8, new_tokens=9, q_heads=4, hidden_size=512)


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (Workload.model_validate({"phase": "prefill"}), "math fp32"),
        (Workload.model_validate({"phase": "train"}), "math fp32"),
        (SHORT, "math fp32 none"),
        (LARGE, "math fp32 static"),
    ],
)
def test_steps_of_many_tokens_stay_where_they_are(of: Workload, words: str) -> None:
    run = Run(configured(of, words), CPU, SEED)
    before = run._inputs[0].data_ptr()
    assert not run.moves
    assert not run.move(0.5)
    assert run._inputs[0].data_ptr() == before


@pytest.mark.parametrize("nbytes", [0, 512, 4096])
def test_memory_behind_something_else_is_shaped_as_asked(nbytes: int) -> None:
    like = torch.zeros(3, 1, 64, dtype=torch.bfloat16)
    found = empty_behind(nbytes, like)
    assert (found.shape, found.dtype, found.is_contiguous()) == (like.shape, like.dtype, True)
    assert found.data_ptr() - found.untyped_storage().data_ptr() == nbytes
    assert found.untyped_storage().nbytes() == nbytes + like.nbytes


def captured_run(words: str = "math bf16 static", gqa: str = "native") -> Run:
    captured = configured(ACROSS, words, gqa=gqa, execution="cuda_graph")
    return Run(captured, torch.device("cuda"), SEED)


@pytest.mark.cuda
@pytest.mark.parametrize("products_first", [False, True])
def test_a_captured_step_that_finds_no_room_elsewhere_stays_where_it_is(
    products_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = captured_run()
    expected = [run.step(index).clone() for index in range(run.steps)]
    step = run.layer._fixed_step

    def no_room(hidden: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        if products_first:
            step(hidden, position)
        raise torch.OutOfMemoryError

    monkeypatch.setattr(run.layer, "_fixed_step", no_room)
    run.restart()
    for index, theirs in enumerate(expected):
        with pytest.raises(torch.OutOfMemoryError):
            run.move(0.5)
        assert torch.equal(run.step(index), theirs)
    monkeypatch.undo()
    run.restart()
    for index, theirs in enumerate(expected):
        assert run.move(index / run.steps)
        assert torch.equal(run.step(index), theirs)


@pytest.mark.cuda
def test_captured_steps_lie_at_many_addresses_and_take_no_more_memory_for_it() -> None:
    run, other = captured_run(), captured_run("efficient bf16 static", gqa="repeat_kv")
    outs = [[one.step(index).clone() for index in range(one.steps)] for one in (run, other)]
    inputs, results, reserved = set[int](), set[int](), list[int]()
    for number in range(20):
        run.restart()
        for index, theirs in enumerate(outs[0]):
            assert run.move((index + number / 20) / run.steps)
            assert torch.equal(run.step(index), theirs)
            graph = run.layer._graph
            assert graph is not None
            inputs.add(graph._hidden.data_ptr())
            results.add(graph._out.data_ptr())
        reserved.append(torch.cuda.memory_reserved())
    assert len(inputs) > 200  # of 400
    assert len(results) > 20
    assert reserved[-1] - reserved[1] <= 4 * MIB
    other.restart()
    for index, theirs in enumerate(outs[1]):
        assert torch.equal(other.step(index), theirs)


@pytest.mark.cuda
@pytest.mark.parametrize("score_mod", ["none", "alibi", "softcap:2", "sliding_window:30"])
@pytest.mark.parametrize("kv_dtype", ["same", "int8", "fp8"])
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "flash"])
def test_a_replayed_step_is_the_eager_step(backend: str, kv_dtype: str, score_mod: str) -> None:
    of = ACROSS.model_copy(update={"score_mod": score_mod})
    gqa = "repeat_kv" if backend == "efficient" else "native"
    eager, captured = (
        configured(of, f"{backend} bf16 static", kv_dtype=kv_dtype, gqa=gqa, execution=execution)
        for execution in ("eager", "cuda_graph")
    )
    reasons = unsupported_reasons(captured, detect_device("cuda"))
    if reasons:
        pytest.skip("; ".join(reasons))
    expected = outs_of(eager, "cuda", passes=2)
    found = outs_of(captured, "cuda", passes=2)
    assert len(expected) == 40
    # Over the whole buffer instead of a slice, sums are split differently: a roundoff or two.
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) < 2 * 2.0**-8


@pytest.mark.cuda
def test_garbage_is_not_collected_in_the_middle_of_a_capture() -> None:
    captured = configured(ACROSS, "eager fp16 static", execution="cuda_graph")
    before = gc.get_threshold()
    gc.set_threshold(1)  # as often as it can be
    try:
        for _ in range(5):
            run = Run(captured, torch.device("cuda"), SEED)
            run.step(0)
            run.itself = run  # type: ignore[attr-defined]  # with its graph, for the collector
    finally:
        gc.set_threshold(*before)


@pytest.mark.cuda
@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("cache", [name for name, kind in CACHES.items() if kind.reuses])
@pytest.mark.parametrize("precision", BACKENDS["flex"].support["cuda"].reads_stored["fp8"])
def test_flex_reads_fp8_as_it_is_stored(precision: str, cache: str, execution: str) -> None:
    mod = "sliding_window:100" if cache == "ring" else "none"
    of = ACROSS.model_copy(update={"score_mod": mod})
    fused = configured(of, f"flex {precision} {cache}", kv_dtype="fp8", execution=execution)
    if unsupported_reasons(fused, detect_device("cuda")):
        pytest.skip("declared not to run")
    decoded = configured(of, f"eager {precision} static", kv_dtype="fp8")
    found, expected = outs_of(fused, "cuda"), outs_of(decoded, "cuda")
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) < 4 * 2.0**-8


@pytest.mark.parametrize("score_mod", ["none", "alibi", "softcap:2", "sliding_window:30"])
@pytest.mark.parametrize("kv_dtype", ["same", "int8", "fp8"])
@pytest.mark.parametrize("backend", ["eager", "math", "flash"])
def test_a_step_at_a_position_on_the_device_is_the_eager_step(
    backend: str, kv_dtype: str, score_mod: str
) -> None:
    # What a CUDA graph captures, on a CPU and without one.
    of = ACROSS.model_copy(update={"score_mod": score_mod})
    if backend != "eager" and not of.scores.additive:
        pytest.skip(f"backend {backend} takes no {score_mod}")
    configuration = configured(of, f"{backend} fp32 static", kv_dtype=kv_dtype)
    expected = outs_of(configuration, "cpu")
    captured = configured(of, f"{backend} fp32 static", kv_dtype=kv_dtype, execution="cuda_graph")
    run = Run(captured, CPU, SEED)
    position = torch.tensor([of.seq_len])
    with torch.inference_mode():
        for index, theirs in enumerate(expected):
            ours = run.layer._fixed_step(run._inputs[index], position)
            assert relative_error(ours, theirs) < 1e-5
    assert int(position) == of.capacity


def sizes(backend: str) -> list[str]:
    return [f"{backend} fp32 {cache}" for cache in ("none", "concat", "static", "ring")]


@pytest.mark.parametrize("words", [*sizes("eager"), *sizes("math")[1:3], *sizes("flash")[2:]])
def test_a_compiled_layer_compiles_once_for_all_lengths(words: str) -> None:
    mod = "sliding_window:8" if words.endswith("ring") else "none"
    of = SHORT.model_copy(update={"score_mod": mod})
    configuration = configured(of, words, execution="compiled")
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        outs = outs_of(configuration, "cpu", passes=2)
    expected = outs_of(configured(of, words), "cpu", passes=2)
    for ours, theirs in zip(outs, expected, strict=True):
        assert relative_error(ours, theirs) < 1e-5


@pytest.mark.cuda
@pytest.mark.parametrize("cache", ["none", "concat", "static", "ring", "paged"])
@pytest.mark.parametrize("backend", ["eager", "math", "efficient", "flex"])
def test_a_compiled_layer_compiles_once_for_all_lengths_on_cuda(backend: str, cache: str) -> None:
    mod = "sliding_window:8" if cache == "ring" else "none"
    of = SHORT.model_copy(update={"score_mod": mod})
    configuration = configured(of, f"{backend} bf16 {cache}", execution="compiled")
    if unsupported_reasons(configuration, detect_device("cuda")):
        pytest.skip("declared not to run")
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        outs_of(configuration, "cuda", passes=2)


def test_compiled_eager_is_not_rewritten_into_sdpa() -> None:
    # Inductor's pattern matcher knows softmax(QKᵀ)V, and would measure flash under eager's name.
    prefill = Workload.model_validate(
        {"phase": "prefill", "batch": 2, "seq_len": 64, "q_heads": 4, "head_dim": 32}
    )
    run = Run(configured(prefill, "eager fp32", execution="compiled"), CPU, SEED)
    run.step(0)
    kernels = kernels_of_step(run)
    assert not [name for name in kernels if "scaled_dot_product" in name]
    assert backend_that_ran(kernels, "cpu") == "eager"


def test_a_compiled_backend_is_not_answered_by_another_ones_code() -> None:
    # torch.compile's caches do not know which SDPA backend is asked for outside of the graph.
    torch._dynamo.reset()
    prefill = Workload.model_validate(
        {"phase": "prefill", "batch": 1, "seq_len": 64, "q_heads": 2, "head_dim": 32}
    )
    for backend in ("flash", "math", "flash", "eager"):
        run = Run(configured(prefill, f"{backend} fp32", execution="compiled"), CPU, SEED)
        run.step(0)
        assert backend_that_ran(kernels_of_step(run), "cpu") == backend


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("cache", ["concat", "static"])
def test_projections_of_a_cached_step_are_matrix_products(batch: int, cache: str) -> None:
    # Not a batch of vectors, for which the weights are read again and again.
    of = SHORT.model_copy(update={"batch": batch})
    run = Run(configured(of, f"flash fp32 {cache}"), CPU, SEED)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run.step(0)
        run.step(1)
    names = [event.name for event in profiler.events()]
    assert names.count("aten::bmm") == 0
    assert names.count("aten::mm") == 2 * len(PROJECTIONS)


def test_a_row_of_flex_attention_is_compiled_for_its_batch_and_heads_and_any_length() -> None:
    # Inductor's kernel for few rows needs to know them; else a prompt's kernel takes the step.
    of = Workload(batch=3, seq_len=40, q_heads=4, kv_heads=2, head_dim=32, new_tokens=4)
    run = Run(configured(of, "flex fp32 concat"), CPU, SEED)
    compiled: list[list[tuple[object, ...]]] = []

    def record(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        given = (node.meta["example_value"] for node in graph.graph.find_nodes(op="placeholder"))
        tensors = [each for each in given if isinstance(each, torch.Tensor)]
        compiled.append([tuple(each.shape) for each in tensors if each.is_floating_point()])
        return graph.forward

    torch._dynamo.reset()
    run.layer._backend._call = torch.compile(
        flex_attention, backend=record, fullgraph=True, dynamic=True
    )
    for index in range(run.steps):
        run.step(index)
    (shapes,) = compiled  # once, for all lengths
    query, key, value = shapes[:3]
    for shape, heads in ((query, 4), (key, 2), (value, 2)):
        assert [type(size) for size in shape[:2]] == [int, int]
        assert shape[:2] == (3, heads)
    assert isinstance(key[2], torch.SymInt)


def test_flex_attention_may_be_compiled_for_more_batches_than_pytorch_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flex, "RECOMPILE_LIMIT", 0)
    monkeypatch.setattr(flex, "_made", itertools.count(1))
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=2, accumulated_recompile_limit=2):
        for batch in range(2, 6):
            of = Workload(batch=batch, seq_len=40, q_heads=2, head_dim=32, new_tokens=2)
            run = Run(configured(of, "flex fp32 concat"), CPU, SEED)
            run.layer._backend._call = torch.compile(
                flex_attention, backend="eager", fullgraph=True, dynamic=True
            )
            assert run.step(0).shape[0] == batch
