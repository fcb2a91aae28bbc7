"""What only a CUDA device can show."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch

from objectives.metrics.memory import settle
from objectives.metrics.steps import run_steps_cold
from objectives.schema.evaluation import Outcome
from objectives.schema.limits import Limits
from objectives.timing.held_stream import HeldStream, Hold
from objectives.timing.passes import ROUND, HeldPasses
from objectives.timing.streams import IN_TURNS, fast_streams
from objectives.trial.bench import DeviceBench
from objectives.trial.evaluator import Evaluator
from tests.configurations import configured
from variants.configuration import Configuration, default_variant
from variants.detect import detect_device
from variants.layer.graph import capture_stream
from variants.layer.inputs import random_hidden, random_weights
from variants.layer.layer import AttentionLayer
from variants.layer.run import Run
from variants.support import unsupported_reasons
from variants.workload import Phase, Workload

pytestmark = pytest.mark.cuda
DECODE = Workload(batch=4, seq_len=2048, q_heads=16, head_dim=64)


@pytest.fixture
def evaluator() -> Evaluator:
    return Evaluator(detect_device("cuda"), Limits(sampling_s=0.1), seed=0)


@pytest.fixture
def bench() -> Iterator[DeviceBench]:
    bench = DeviceBench(Limits(sampling_s=0.1), seed=0, device="cuda")
    yield bench
    bench.close()


def test_memory_is_the_same_to_the_byte_in_any_order(evaluator: Evaluator) -> None:
    # Beside what libraries keep as workspaces: what compilers allocate, and pools of graphs.
    variants = [
        configured(DECODE, "flash bf16 static"),
        configured(DECODE, "math fp32 none"),
        configured(DECODE, "efficient fp16 concat"),
        configured(DECODE, "eager tf32 static"),
        configured(DECODE, "cudnn fp16 static"),
        configured(DECODE, "flex bf16 paged"),
        configured(DECODE, "math fp16 static", execution="compiled"),
        configured(DECODE, "eager bf16 static", execution="cuda_graph"),
    ]
    seen: dict[str, set[float | None]] = {of.key: set() for of in variants}
    for order in (variants, variants[::-1], [*variants[1::2], *variants[::2]]):
        for of in order:
            seen[of.key].add(evaluator.evaluate(of).peak_memory_mib)
    assert all(len(peaks) == 1 and None not in peaks for peaks in seen.values()), seen


def test_static_cache_weighs_what_arithmetic_says(evaluator: Evaluator) -> None:
    measured = evaluator.evaluate(configured(DECODE, "flash bf16 static")).measurements
    assert measured is not None
    memory = measured.memory
    assert memory.weights_mib == 4 * 1024 * 1024 * 2 / 2**20
    assert memory.cache_mib == 2 * 4 * 16 * 2057 * 64 * 2 / 2**20
    assert memory.transient_mib < 1
    assert measured.latency.held
    assert measured.latency.gpu is not None


def peak_of_stack(of: Configuration, layers: int) -> int:
    """The bytes of a real stack: each layer is given what the one before it made."""
    cuda = torch.device("cuda")
    settle()
    before = torch.cuda.memory_allocated()
    run = Run(of, cuda, seed=0)
    stack = [run.layer]
    for seed in range(1, layers):
        layer = AttentionLayer(of, random_weights(of.workload, cuda, seed))
        layer._backend = run.layer._backend  # a model makes one mask for all of its layers
        if layer.reuses_cache:
            layer.fill(
                lambda sequence: random_hidden(of.workload, sequence, cuda, 0)[
                    : of.workload.seq_len
                ]
            )
        for parameter in layer.parameters():
            parameter.grad = torch.zeros_like(parameter) if of.workload.trains else None
        stack.append(layer)
    settle()
    torch.cuda.reset_peak_memory_stats()
    inputs, run._inputs = run._inputs, []
    run._hidden = torch.empty(0)  # nobody needs a layer's input behind the layer
    while inputs:
        hidden = inputs.pop(0)
        for layer in stack:
            hidden = layer(hidden)
        if run._training is not None:
            hidden.backward(run._training.out_gradient)
        del hidden
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize("layers", [2, 4])
@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("decode", "flash bf16 static"),
        ("decode", "flash bf16 concat"),
        ("decode", "flash bf16 none"),
        ("decode", "flex bf16 paged"),
        ("prefill", "flash bf16"),
        ("prefill", "math bf16"),
        ("train", "flash bf16"),
        ("train", "eager bf16"),
    ],
)
def test_a_stack_of_layers_weighs_what_the_formula_says(
    evaluator: Evaluator, phase: str, words: str, layers: int
) -> None:
    # Tensors of whole MiB: the allocator does not split what is up to one larger than asked.
    one = Workload.model_validate(
        {"phase": phase, "batch": 8, "seq_len": 1023, "new_tokens": 1, "q_heads": 16}
    )
    if phase != "decode":
        one = one.model_copy(update={"seq_len": 1024})
    measured = evaluator.evaluate(
        configured(one.model_copy(update={"layers": layers}), words)
    ).measurements
    assert measured is not None
    real = peak_of_stack(configured(one, words), layers) / 2**20
    assert measured.memory.peak_mib == pytest.approx(real, abs=layers)


def test_nothing_of_a_trial_stays_on_the_device(evaluator: Evaluator) -> None:
    # A workspace that a library keeps would belong to whichever trial came first.
    words = ["eager tf32 static", "math bf16 concat", "cudnn fp16 static", "flex bf16 paged"]
    left = []
    for variant in words:
        for execution in ("eager", "compiled", "cuda_graph"):
            for quantization in ("none", "int8_weight_only", "fp8_weight_only", "fp8_dynamic"):
                chosen = configured(
                    DECODE, variant, execution=execution, quantization=quantization
                )
                if not unsupported_reasons(chosen, evaluator.device):
                    before = torch.cuda.memory_allocated()
                    evaluator.evaluate(chosen)
                    left.append((torch.cuda.memory_allocated() - before, chosen.key))
    assert [entry for entry in left if entry[0]] == []


def test_a_captured_step_weighs_its_pool(evaluator: Evaluator) -> None:
    eager, captured = (
        evaluator.evaluate(
            configured(DECODE, "math bf16 static", execution=execution)
        ).measurements
        for execution in ("eager", "cuda_graph")
    )
    assert eager is not None
    assert captured is not None
    # Over the whole buffer, with inputs, position and output of its own.
    assert captured.memory.peak_mib == pytest.approx(eager.memory.peak_mib, rel=0.02)
    assert captured.latency.host.value < eager.latency.host.value


def test_a_plan_that_fits_every_step_is_no_stall(evaluator: Evaluator) -> None:
    # cuDNN plans each length; a captured step has one for all of them.
    fresh = DECODE.model_copy(update={"seq_len": 1357})
    captured = evaluator.evaluate(configured(fresh, "cudnn bf16 static", execution="cuda_graph"))
    assert captured.outcome is Outcome.MEASURED


def test_the_held_stream_removes_launch_gaps() -> None:
    stream = HeldStream(detect_device("cuda").l2_bytes)
    tensor = torch.ones(1, device="cuda")

    def many_small_kernels() -> None:
        for _ in range(100):
            tensor.add_(1)

    gpu_times, hold = [], Hold()
    for _ in range(30):
        gpu_ms, host_ms, held = stream.sample(many_small_kernels, hold)
        if held:
            gpu_times.append(gpu_ms)
            hold.expect(host_ms)
        else:
            hold.lengthen()
    assert len(gpu_times) > 15
    assert min(gpu_times) < 0.5  # a hundred kernels of 2 to 3 µs, one behind the other


def test_steps_are_launched_from_streams_that_no_graph_is_captured_on(
    evaluator: Evaluator,
) -> None:
    streams = {stream.cuda_stream for stream in fast_streams()}
    assert len(streams) == IN_TURNS
    assert capture_stream().cuda_stream not in streams
    assert torch.cuda.current_stream() == fast_streams()[0]


@pytest.fixture
def every_warning_again() -> Iterator[None]:
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.mark.usefixtures("every_warning_again")
@pytest.mark.filterwarnings("error:.*AccumulateGrad")
@pytest.mark.parametrize("phase", ["decode", "train"])
@pytest.mark.parametrize(
    "words", ["math bf16 concat", "efficient bf16 static", "eager bf16 none", "flash bf16 none"]
)
@pytest.mark.parametrize("execution", ["eager", "compiled", "cuda_graph"])
def test_a_run_on_several_streams_comes_to_the_same(
    evaluator: Evaluator, phase: str, words: str, execution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = evaluator.stream
    assert stream is not None
    workload = Workload.model_validate({"phase": phase, "batch": 1, "seq_len": 128})
    of = configured(
        workload, words if phase == "decode" else words.rpartition(" ")[0], execution=execution
    )
    if reasons := unsupported_reasons(of, evaluator.device):
        pytest.skip(reasons[0])
    run = Run(of, torch.device("cuda"), seed=0)
    alone: list[Mapping[str, torch.Tensor]] = []
    run_steps_cold(run, lambda results: alone.append({k: v.clone() for k, v in results.items()}))
    used, step, sample = set[int](), run.step, stream.sample

    def noted(index: int) -> torch.Tensor:
        used.add(torch.cuda.current_stream().cuda_stream)
        return step(index)

    def with_a_slow_host(step: Callable[[], object], hold: Hold) -> tuple[float, float, bool]:
        gpu_ms, host_ms, held = sample(step, hold)
        return gpu_ms, gpu_ms + host_ms, held

    run.step = noted  # type: ignore[method-assign]
    monkeypatch.setattr(stream, "sample", with_a_slow_host)
    passes = HeldPasses(run, stream)
    for _ in range(2 * ROUND * IN_TURNS):  # each stream is visited
        passes()
    used.clear()
    for _ in range(ROUND * IN_TURNS):  # captured steps stay on one for a round
        passes()
    assert passes.held
    assert used == {one.cuda_stream for one in fast_streams()}
    run.restart()
    for index, expected in enumerate(alone):
        for name, tensor in run.results(step(index)).items():
            torch.testing.assert_close(tensor, expected[name])


def test_a_capture_that_fails_leaves_the_current_stream_as_it_was() -> None:
    program = (
        "import torch\n"
        "from variants.layer.graph import WARM_UPS, Graph\n"
        "from objectives.timing.streams import fast_streams\n"
        "torch.cuda.set_stream(fast_streams()[0])\n"
        "before, calls = torch.cuda.current_stream(), []\n"
        "def step(hidden, position):\n"
        "    calls.append(1)\n"
        "    if len(calls) > WARM_UPS: hidden.sum().item()\n"
        "    return hidden + 1\n"
        "try:\n"
        "    Graph(step, torch.ones(4, device='cuda'))\n"
        "except RuntimeError:\n"
        "    raise SystemExit(0 if torch.cuda.current_stream() == before else 3)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def sampled(stream: HeldStream, step: Callable[[], object]) -> list[tuple[float, float, bool]]:
    """Sample a step as passes do: held longer where the hold was too short."""
    samples, hold = [], Hold()
    for _ in range(10):
        samples.append(stream.sample(step, hold))
        _, host_ms, held = samples[-1]
        if held:
            hold.expect(host_ms)
        else:
            hold.lengthen()
    return samples


def test_no_step_hangs_behind_a_held_stream_or_is_falsely_held() -> None:
    stream = HeldStream(detect_device("cuda").l2_bytes)
    tensor = torch.ones(1024, device="cuda")

    def allocate() -> None:
        torch.cuda.empty_cache()  # so that the next allocation is a cudaMalloc
        torch.empty(2**28, dtype=torch.int8, device="cuda")

    def many() -> None:
        for _ in range(2000):  # more than the launch queue takes
            tensor.add_(1)

    assert not any(held for _, _, held in sampled(stream, lambda: tensor.sum().item()))
    assert not any(held for _, _, held in sampled(stream, many))
    # An allocation that waits for nothing has no work on the device either, and the other kind
    # takes a tenth of a millisecond at least.
    assert all(gpu_ms < 0.05 for gpu_ms, _, held in sampled(stream, allocate) if held)


def test_the_l2_cache_is_overwritten_before_each_step() -> None:
    l2_bytes = detect_device("cuda").l2_bytes
    assert l2_bytes == torch.cuda.get_device_properties().L2_cache_size > 0
    stream = HeldStream(l2_bytes)
    buffer = stream._flush
    assert buffer.nbytes >= 2 * l2_bytes
    left: list[torch.Tensor] = []

    def step() -> None:
        left.append(buffer.any())
        buffer.fill_(1)

    buffer.fill_(1)
    sampled(stream, step)
    assert len(left) == 10
    assert not any(left)


def test_default_resolves_to_a_real_backend(evaluator: Evaluator) -> None:
    of = Configuration(workload=DECODE, variant=default_variant(DECODE, evaluator.device))
    measured = evaluator.evaluate(of).measurements
    assert measured is not None
    assert measured.backend_ran in ("cudnn", "flash", "efficient", "math")


def test_a_cudnn_plan_for_each_length_is_a_stall_whichever_trial_pays_it(
    evaluator: Evaluator,
) -> None:
    if detect_device("cuda").capability != (9, 0):
        pytest.skip("seen on Hopper")
    # Lengths that no other test of this process has visited.
    fresh = DECODE.model_copy(update={"seq_len": 1234})
    outcomes = [
        evaluator.evaluate(configured(fresh, "cudnn bf16 concat")).outcome for _ in range(2)
    ]
    assert outcomes == [Outcome.STALLS, Outcome.STALLS]


def test_out_of_memory_names_the_bytes_and_leaves_nothing_behind(bench: DeviceBench) -> None:
    long = Workload(phase=Phase.PREFILL, seq_len=65536, q_heads=32, kv_heads=1, head_dim=16)
    before = bench.evaluate(configured(DECODE, "flash bf16 static"))
    failed = bench.evaluate(configured(long, "eager fp32"))
    after = bench.evaluate(configured(DECODE, "flash bf16 static"))
    assert failed.outcome is Outcome.OUT_OF_MEMORY
    assert "Tried to allocate" in failed.reason
    assert after.outcome is Outcome.MEASURED
    assert after.peak_memory_mib == before.peak_memory_mib
    assert "worker start" not in after.seconds


def test_the_parent_creates_no_cuda_context() -> None:
    import subprocess
    import sys

    code = (
        "import sys\n"
        "from objectives.trial.bench import DeviceBench\n"
        "from objectives.schema.limits import Limits\n"
        "bench = DeviceBench(Limits(), seed=0, device='cuda'); bench.device(); bench.close()\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_device_side_assert_is_a_crash_and_the_next_trial_is_measured() -> None:
    bench = DeviceBench(
        Limits(sampling_s=0.1),
        seed=0,
        device="cuda",
        target="tests.objectives.process.broken_handler:start_handler",
    )
    try:
        crashed = bench.evaluate(
            configured(DECODE.model_copy(update={"batch": 13}), "math bf16 static")
        )
        assert crashed.outcome is Outcome.CRASHED
        assert "device-side assert" in crashed.reason
        assert bench.process.pid is None
        measured = bench.evaluate(configured(DECODE, "math bf16 static"))
        assert measured.outcome is Outcome.MEASURED
    finally:
        bench.close()


def test_the_same_twice_in_turns_is_the_same_and_memory_is_given_back(
    evaluator: Evaluator,
) -> None:
    chosen = [configured(DECODE, f"{words} static") for words in ("flash bf16", "cudnn bf16")]
    evaluator.compare(chosen)
    before = torch.cuda.memory_allocated()
    comparison = evaluator.compare(chosen)
    assert torch.cuda.memory_allocated() == before
    (group,) = comparison.groups
    assert [one.configuration for one in group] == chosen
    assert all(one.held for one in group)
    assert all(len(one.gpu_ms) == len(one.host_ms) >= 3 for one in group)


def test_what_does_not_fit_at_once_is_timed_in_groups(evaluator: Evaluator) -> None:
    large = Workload(batch=8, seq_len=8192, q_heads=16, head_dim=64)
    chosen = [configured(large, f"{name} static") for name in ("flash bf16", "cudnn bf16")]
    chosen.append(configured(large, "flash fp16 static"))
    # A cache has 256 MiB: there is room for two configurations and not for three.
    share = 0.8 * 2**30 / evaluator.device.memory_bytes
    torch.cuda.empty_cache()
    used = torch.cuda.memory_reserved() / evaluator.device.memory_bytes
    torch.cuda.set_per_process_memory_fraction(share + used)
    try:
        comparison = evaluator.compare(chosen)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    timed = {one.configuration for group in comparison.groups for one in group}
    assert timed | {c for c in chosen if c.key in comparison.missing} == set(chosen)
    assert all(group[0].configuration == chosen[0] for group in comparison.groups)


def test_clocks_are_read_around_a_trial(evaluator: Evaluator) -> None:
    measured = evaluator.evaluate(configured(DECODE, "flash bf16 static")).measurements
    assert measured is not None
    conditions = measured.conditions
    assert conditions is not None
    if conditions.unread:
        pytest.skip(f"NVML cannot read this device: {conditions.unread}")
    assert conditions.sm_mhz is not None
    assert 200 < conditions.sm_mhz[0] <= conditions.sm_mhz[1] < 4000
    assert conditions.temperature_c is not None
    assert 10 < conditions.temperature_c < 110
