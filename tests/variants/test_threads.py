"""One deployment among threads: each call gets its own mask and its own backend."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from tests.configurations import configured
from variants.deploy.deployment import Deployment
from variants.deploy.model_choice import ModelChoice
from variants.detect import detect_device
from variants.turns import Turns
from variants.workload import Workload

HERE = detect_device("cpu")
SHAPE = {"batch": 2, "q_heads": 4, "kv_heads": 2, "head_dim": 32}
THREADS = 4

pytestmark = pytest.mark.filterwarnings(
    "ignore::variants.deploy.dispatched_attention.DispatchWarning"
)


def deployment(prefill: str, decode: str, score_mod: str = "none") -> Deployment:
    found = []
    for phase, backend in (("prefill", prefill), ("decode", decode)):
        workload = Workload.model_validate(
            SHAPE | {"phase": phase, "seq_len": 24, "score_mod": score_mod}
        )
        found.append(configured(workload, f"{backend} fp32 static"))
    return Deployment(found, ModelChoice.of(found[0].variant), HERE, "threads")


@pytest.fixture
def _switching() -> Iterator[None]:
    """Threads that take turns all the time, and no compiled code of the tests before."""
    torch._dynamo.reset()
    interval, threads = sys.getswitchinterval(), torch.get_num_threads()
    sys.setswitchinterval(1e-5)
    torch.set_num_threads(1)
    yield
    sys.setswitchinterval(interval)
    torch.set_num_threads(threads)


def in_threads(work: Callable[[int], None]) -> None:
    """Run `work` in all threads at once, and raise what one of them raised."""
    failed: list[BaseException] = []
    ready = threading.Barrier(THREADS)

    def run(number: int) -> None:
        try:
            ready.wait()
            work(number)
        except BaseException as error:
            failed.append(error)

    running = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if failed:
        raise failed[0]


def prefill_inputs(number: int, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values and a causal mask whose padding is this thread's."""
    generator = torch.Generator().manual_seed(number)
    query, key, value = (
        torch.randn(2, heads, length, 32, generator=generator) for heads in (4, 2, 2)
    )
    mask = torch.ones(length, length, dtype=torch.bool).tril().repeat(2, 1, 1, 1)
    mask[0, :, :, : 1 + 3 * number] = False
    return query, key, value, mask


@pytest.mark.usefixtures("_switching")
@pytest.mark.parametrize("backend", ["eager", "math", "flash", "flex"])
@pytest.mark.parametrize("lengths", [(24,) * THREADS, (20, 24, 28, 33)])
def test_each_thread_has_its_own_mask(
    backend: str, lengths: tuple[int, ...], request: pytest.FixtureRequest
) -> None:
    if (
        backend == "flex"
        and len(set(lengths)) > 1
        and not request.config.getoption("--everything")
    ):
        pytest.skip("compiles for seconds; runs with --everything")
    attention = deployment(backend, backend).attention
    inputs = [prefill_inputs(number, length) for number, length in enumerate(lengths)]

    def attend(number: int, masked: bool) -> Tensor:
        query, key, value, mask = inputs[number]
        return attention(query, key, value, mask=mask.clone() if masked else None)

    expected = [[attend(number, masked) for masked in (True, False)] for number in range(THREADS)]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(20 if backend == "flex" else 150):
            for masked in (True, False):
                out = attend(number, masked)
                if not torch.allclose(out, expected[number][not masked], atol=1e-5):
                    wrong.append(number)

    in_threads(work)
    assert wrong == []


@pytest.mark.usefixtures("_switching")
def test_threads_leave_the_switches_of_pytorch_as_they_were() -> None:
    """Which SDPA backends may run is one setting of the whole process."""
    attention = deployment("math", "flash").attention
    query, key, value, _ = prefill_inputs(0, 24)
    steps = {number: (query if number % 2 else query[:, :, -1:]) for number in range(THREADS)}

    def switches() -> tuple[bool, ...]:
        backends = torch.backends.cuda
        return (
            backends.math_sdp_enabled(),
            backends.flash_sdp_enabled(),
            backends.mem_efficient_sdp_enabled(),
            backends.cudnn_sdp_enabled(),
        )

    before = switches()
    expected = {number: attention(step, key, value) for number, step in steps.items()}

    def work(number: int) -> None:
        for _ in range(300):
            out = attention(steps[number], key, value)
            assert torch.allclose(out, expected[number], atol=1e-5)

    in_threads(work)
    assert switches() == before


@pytest.mark.parametrize("backend", ["eager", "flash"])
@pytest.mark.parametrize("inference", [False, True])
def test_a_mask_that_its_owner_changes_is_another_mask(backend: str, inference: bool) -> None:
    attention = deployment(backend, backend).attention
    with torch.inference_mode(inference):
        query, key, value, mask = prefill_inputs(1, 24)
        attention(query, key, value, mask=mask)
        mask[1, :, :, :9] = False
        out = attention(query, key, value, mask=mask)
        assert torch.equal(out, attention(query, key, value, mask=mask.clone()))


@pytest.mark.usefixtures("_switching")
def test_threads_take_turns_with_what_the_process_has_once() -> None:
    now = ["none"]

    @contextmanager
    def applied(setting: str) -> Iterator[None]:
        before, now[0] = now[0], setting
        yield
        now[0] = before

    turns = Turns(applied)

    def work(number: int) -> None:
        own = "even" if number % 2 == 0 else "odd"
        for _ in range(500):
            with turns.of(own):
                assert now[0] == own

    in_threads(work)
    assert now == ["none"]
    with pytest.raises(RuntimeError, match="of the block"), turns.of("odd"):
        raise RuntimeError("of the block")
    assert now == ["none"]
