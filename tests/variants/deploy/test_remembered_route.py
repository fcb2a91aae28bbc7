"""A call of one token takes the way of the one before where it is like that one, only there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tests.configurations import configured
from variants.backends import backend_that_ran
from variants.deploy.deployment import Deployment
from variants.deploy.dispatched_attention import DispatchWarning
from variants.deploy.layer_cache import JoinedRows, LayerCache
from variants.deploy.model_choice import ModelChoice
from variants.detect import detect_device
from variants.workload import Workload

SHAPE = {"batch": 2, "q_heads": 4, "kv_heads": 2, "head_dim": 32}
SAYS_NOTHING = pytest.mark.filterwarnings(
    "ignore::variants.deploy.dispatched_attention.DispatchWarning"
)


def deployed(*rows: tuple[str, int], device: str = "cpu", **choices: str) -> Deployment:
    """Decode workloads as (words, seq_len)."""
    found = []
    for words, seq_len in rows:
        workload = Workload.model_validate(SHAPE | {"seq_len": seq_len, "new_tokens": 8})
        found.append(configured(workload, words, **choices))
    return Deployment(found, ModelChoice.of(found[0].variant), detect_device(device), "test")


def some(loaded: Deployment, heads: int, tokens: int, device: str = "cpu") -> Tensor:
    return torch.randn(2, heads, tokens, 32, dtype=loaded.dtype, device=device)


def started(loaded: Deployment, tokens: int, device: str = "cpu", steps: int = 40) -> LayerCache:
    cache = loaded.cache(tokens + steps)
    with torch.no_grad():
        cache.append(some(loaded, 2, tokens, device), some(loaded, 2, tokens, device))
    return cache


@torch.no_grad()
def step(loaded: Deployment, cache: LayerCache, device: str = "cpu", **given: object) -> Tensor:
    new = some(loaded, 2, 1, device)
    return loaded.attention(some(loaded, 4, 1, device), new, new, cache=cache, **given)


def planes_of(cache: LayerCache) -> list[Tensor]:
    assert cache._cache is not None
    return cache._cache.planes


def route(cache: LayerCache) -> object:
    assert cache._memory is not None
    return cache._memory.route


DIRECT = [
    ("cpu", "flash fp32 static", {}),
    ("cpu", "flash bf16 concat", {}),
    ("cpu", "math fp32 static", {}),
    *(
        pytest.param("cuda", words, {}, marks=pytest.mark.cuda)
        for words in ("cudnn bf16 static", "flash fp16 concat", "math bf16 static")
    ),
]


@SAYS_NOTHING
@pytest.mark.parametrize(("device", "words", "choices"), DIRECT)
def test_the_short_way_computes_the_same(device: str, words: str, choices: dict[str, str]) -> None:
    """Bit for bit, by the kernel that the backend's proof names."""
    loaded = deployed((words, 20), device=device, **choices)
    cache = started(loaded, 20, device)
    step(loaded, cache, device)
    assert route(cache) is not None
    query, new = some(loaded, 4, 1, device), some(loaded, 2, 1, device)
    with torch.no_grad():
        held = cache.append(new, new)
        with torch.profiler.profile() as seen:
            short = loaded.attention.attend(query, held)
        held.memory = None
        long = loaded.attention.attend(query, held)
    ran = [event.name for event in seen.events()]
    backend = words.split()[0]
    assert torch.equal(short, long)
    assert backend_that_ran(ran, detect_device(device).kind) == backend
    assert "aten::scaled_dot_product_attention" not in ran


@SAYS_NOTHING
@pytest.mark.parametrize(
    ("words", "choices"),
    [
        ("eager fp32 static", {}),  # has none
        ("math fp32 static", {"gqa": "repeat_kv"}),
        ("math fp32 static", {"kv_dtype": "int8"}),
        ("flash fp32 static", {"execution": "compiled"}),
    ],
)
def test_some_have_no_short_way(
    words: str, choices: dict[str, str], request: pytest.FixtureRequest
) -> None:
    if "execution" in choices and not request.config.getoption("--everything"):
        pytest.skip("compiles for seconds; runs with --everything")
    loaded = deployed((words, 20), **choices)
    cache = started(loaded, 20)
    step(loaded, cache)
    assert cache._memory is None or cache._memory.route is None


def test_a_longer_sequence_takes_the_way_that_was_measured_for_it() -> None:
    loaded = deployed(("math fp32 static", 16), ("flash fp32 static", 36))
    cache = started(loaded, 16, steps=26)
    names = []
    for _ in range(26):
        with torch.profiler.profile() as seen:
            step(loaded, cache)
        names.append("flash" in str({event.name for event in seen.events()}))
    # The middle between 16 and 36, of logarithms, is 24: that many are held after 8 steps.
    assert names == [False] * 7 + [True] * 19


def test_lengths_that_were_not_measured_are_said_on_the_short_way_too() -> None:
    loaded = deployed(("flash fp32 static", 16))
    cache = started(loaded, 16)
    for _ in range(8):
        step(loaded, cache)
    assert route(cache) is not None
    with pytest.warns(DispatchWarning, match="25 tokens lie above the 16 to 24"):
        step(loaded, cache)


@SAYS_NOTHING
def test_another_kind_of_call_is_decided_anew() -> None:
    loaded = deployed(("flash fp32 static", 20))
    cache = started(loaded, 20)
    step(loaded, cache)
    remembered = route(cache)
    query, new = some(loaded, 4, 1), some(loaded, 2, 1)
    with torch.no_grad():
        held = cache.append(new, new)
        seen = torch.ones(2, 1, 1, cache.length, dtype=torch.bool)
        whole = loaded.attention.attend(query, held)
        assert route(cache) is remembered
        seen[..., :15] = False
        part = loaded.attention.attend(query, held, seen)
        assert route(cache) is remembered  # a mask neither takes it nor changes it
        other = loaded.attention.attend(query, held, scale=0.5)
    assert route(cache) is not remembered
    assert not torch.allclose(part, whole)
    assert not torch.allclose(other, whole)


@SAYS_NOTHING
def test_gradients_pass_the_cache_as_before() -> None:
    """Rows of a buffer that were made together let no gradient pass; those are not used then."""
    loaded = deployed(("flash fp32 static", 20))
    cache = started(loaded, 20)
    step(loaded, cache)
    key = some(loaded, 2, 1).requires_grad_()
    query = some(loaded, 4, 1).requires_grad_()
    out = loaded.attention(query, key, some(loaded, 2, 1), cache=cache)
    out.sum().backward()
    assert query.grad is not None
    assert float(query.grad.abs().max()) > 0


@SAYS_NOTHING
def test_every_token_lies_where_it_belongs() -> None:
    """Over more steps than there are rows made at once, and from one kernel to the other."""
    loaded = deployed(("math fp32 static", 20), ("flash fp32 static", 60))
    steps = 2 * JoinedRows.TOGETHER + 5
    cache = started(loaded, 20, steps=steps)
    with torch.no_grad():
        keys, values = (plane[:, :, :20].clone() for plane in planes_of(cache))
        for _ in range(steps):
            query, key, value = (some(loaded, heads, 1) for heads in (4, 2, 2))
            keys, values = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
            out = loaded.attention(query, key, value, cache=cache)
            expected = scaled_dot_product_attention(
                query.double(), keys.double(), values.double(), enable_gqa=True
            )
            torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    assert cache.length == 20 + steps


@SAYS_NOTHING
def test_modes_of_autograd_may_change_between_steps() -> None:
    loaded = deployed(("flash fp32 static", 20))
    cache = started(loaded, 20)
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad, torch.inference_mode):
        with mode():
            for _ in range(2):
                new = some(loaded, 2, 1)
                loaded.attention(some(loaded, 4, 1), new, new, cache=cache)
    assert cache.length == 28
