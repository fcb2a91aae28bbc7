"""Loaded attention against the written-out one: phases, caches, masks, and what is said once."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.configurations import configured
from variants.caches import CacheOverflowError
from variants.deploy.deployment import Deployment
from variants.deploy.dispatch import Route, lowest_parabolas
from variants.deploy.dispatch_overhead import dispatch_us
from variants.deploy.dispatched_attention import DispatchWarning
from variants.deploy.layer_cache import CachedKV
from variants.deploy.model_choice import ModelChoice
from variants.detect import detect_device
from variants.layer.reference import reference_attention
from variants.support import unsupported_reasons
from variants.workload import Workload

HERE = detect_device("cpu")
SHAPE = {"batch": 2, "q_heads": 4, "kv_heads": 2, "head_dim": 32}
PROMPT, STEPS = 40, 4


def deployment(words: str, *, score_mod: str = "none", **choices: str) -> Deployment:
    """One decode and one prefill workload, both by the same backend."""
    found = []
    for phase in ("decode", "prefill"):
        workload = Workload.model_validate(
            SHAPE | {"phase": phase, "seq_len": PROMPT, "score_mod": score_mod, "new_tokens": 4}
        )
        of = configured(workload, words, **choices)
        if not unsupported_reasons(of, HERE):
            found.append(of)
    return Deployment(found, ModelChoice.of(found[0].variant), HERE, "test")


def tokens(heads: int, length: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, heads, length, 32, generator=generator)


def expected(query: Tensor, key: Tensor, value: Tensor, score_mod: str) -> Tensor:
    workload = Workload.model_validate(SHAPE | {"seq_len": 1, "score_mod": score_mod})
    first = key.shape[2] - query.shape[2]
    of_sequences = zip(query.double(), key.double(), value.double(), strict=True)
    return torch.stack([reference_attention(q, k, v, first, workload) for q, k, v in of_sequences])


def error(out: Tensor, reference: Tensor) -> float:
    return float((out.double() - reference).norm().detach() / reference.norm().detach())


SAYS_NOTHING = pytest.mark.filterwarnings(
    "ignore::variants.deploy.dispatched_attention.DispatchWarning"
)


@SAYS_NOTHING
@pytest.mark.parametrize("words", ["eager", "math", "flash", "flex"])
@pytest.mark.parametrize("score_mod", ["none", "alibi", "sliding_window:9", "softcap:2"])
def test_a_prompt_and_what_follows_it(
    words: str, score_mod: str, request: pytest.FixtureRequest
) -> None:
    if words == "flex" and not request.config.getoption("--everything"):
        pytest.skip("compiles for seconds; runs with --everything")
    if score_mod == "softcap:2" and words in ("math", "flash"):
        pytest.skip(f"{words} takes no softcap")
    attention = deployment(f"{words} fp32 static", score_mod=score_mod).attention
    query, key, value = tokens(4, 60, 0), tokens(2, 60, 1), tokens(2, 60, 2)
    reference = expected(query, key, value, score_mod)
    with torch.inference_mode():
        for rows in (slice(0, 40), slice(40, 41), slice(41, 42), slice(45, 60)):
            stop = rows.stop
            out = attention(query[:, :, rows], key[:, :, :stop], value[:, :, :stop])
            assert error(out, reference[:, :, rows]) < 1e-5


CASES = [
    ("flash fp32 concat", "none", {}, 1e-5),
    ("eager fp32 static", "alibi", {"gqa": "repeat_kv"}, 1e-5),
    ("math fp32 ring", "sliding_window:9", {}, 1e-5),
    ("eager fp32 ring", "softcap:2+sliding_window:9", {}, 1e-5),
    ("flex fp32 paged", "none", {}, 1e-5),
    ("flex fp32 static", "softcap:2", {}, 1e-5),
    ("flash fp32 static", "none", {"kv_dtype": "int8"}, 2e-2),
    ("flash fp32 concat", "none", {"kv_dtype": "fp8"}, 6e-2),
    ("eager fp32 static", "none", {"execution": "compiled"}, 1e-5),
]


@pytest.mark.parametrize(("words", "score_mod", "choices", "most"), CASES)
@pytest.mark.parametrize("padded", [False, True])
def test_decoding_with_the_cache(
    words: str,
    score_mod: str,
    choices: dict[str, str],
    most: float,
    padded: bool,
    request: pytest.FixtureRequest,
) -> None:
    """The first sequence is padded on the left: its hidden keys must not count, nor must NaN."""
    compiles = words.startswith("flex") or "execution" in choices
    if compiles and padded != ("paged" in words) and not request.config.getoption("--everything"):
        pytest.skip("compiles for seconds; runs with --everything")
    loaded = deployment(words, score_mod=score_mod, **choices)
    window = 9 if "window" in score_mod else None
    total = PROMPT + STEPS
    cache = loaded.cache(total, window=window)
    query, key, value = tokens(4, total, 0), tokens(2, total, 1), tokens(2, total, 2)
    pad = 35 if padded else 0
    visible = torch.ones(2, total, dtype=torch.bool)
    visible[0, :pad] = False
    kept = {"first": slice(pad, None), "second": slice(0, None)}
    references = {
        name: expected(
            query[[i]][:, :, own], key[[i]][:, :, own], value[[i]][:, :, own], score_mod
        )
        for i, (name, own) in enumerate(kept.items())
    }
    outs = []
    with torch.inference_mode():
        for rows in (slice(0, PROMPT), *(slice(i, i + 1) for i in range(PROMPT, total))):
            mask = None
            if padded:
                position = torch.arange(rows.start, rows.stop)[:, None]
                first = 0
                if rows.start and cache.kind.windowed:
                    first = rows.stop - cache.kept(rows.stop)
                of_key = torch.arange(first, rows.stop)
                seen = (position >= of_key) & (
                    (position - of_key < window) if window else torch.tensor(True)
                )
                mask = seen[None, None] & visible[:, None, None, first : rows.stop]
            outs.append(
                loaded.attention(
                    query[:, :, rows],
                    key[:, :, rows],
                    value[:, :, rows],
                    cache=cache,
                    mask=mask,
                )
            )
    out = torch.cat(outs, dim=2)
    assert cache.length == total
    assert bool(torch.isfinite(out).all())
    assert error(out[:1, :, pad:], references["first"]) < most
    assert error(out[1:], references["second"]) < most


@SAYS_NOTHING
@pytest.mark.parametrize("kind", ["concat", "static", "paged"])
def test_several_tokens_behind_a_prompt(kind: str) -> None:
    backend = "flex" if kind == "paged" else "flash"
    loaded = deployment(f"{backend} fp32 {kind}")
    cache = loaded.cache(60)
    query, key, value = tokens(4, 60, 0), tokens(2, 60, 1), tokens(2, 60, 2)
    reference = expected(query, key, value, "none")
    outs = []
    with torch.inference_mode():
        for rows in (slice(0, 40), slice(40, 47), slice(47, 48)):
            parts = (part[:, :, rows] for part in (query, key, value))
            outs.append(loaded.attention(*parts, cache=cache))
    assert error(torch.cat(outs, dim=2), reference[:, :, :48]) < 1e-5
    with pytest.raises(CacheOverflowError, match="13 more do not fit"):
        cache.append(key[:, :, :13], value[:, :, :13])
    cache.reset()
    assert cache.length == cache.nbytes == 0


def test_a_ring_takes_one_token_at_a_time() -> None:
    loaded = deployment("math fp32 ring", score_mod="sliding_window:9")
    cache = loaded.cache(60, window=9)
    cache.append(tokens(2, 20, 0), tokens(2, 20, 0))
    with pytest.raises(ValueError, match="ring takes one token at a time after the prompt, got 2"):
        cache.append(tokens(2, 2, 0), tokens(2, 2, 0))
    with pytest.raises(ValueError, match="ring needs a layer with a sliding_window"):
        loaded.cache(60)


@SAYS_NOTHING
def test_without_a_cache_there_is_none_to_make() -> None:
    loaded = deployment("math fp32 none")
    with pytest.raises(ValueError, match="cache must be one that is kept, got none"):
        loaded.cache(60)
    out = loaded.attention(tokens(4, 41, 0), tokens(2, 41, 1), tokens(2, 41, 2))
    reference = expected(tokens(4, 41, 0), tokens(2, 41, 1), tokens(2, 41, 2), "none")
    assert error(out, reference) < 1e-5


def measured(*rows: tuple[str, int, int, str]) -> Deployment:
    """Workloads as (phase, batch, seq_len, backend)."""
    found = []
    for phase, batch, seq_len, words in rows:
        shape = SHAPE | {"phase": phase, "batch": batch, "seq_len": seq_len}
        found.append(configured(Workload.model_validate(shape), f"{words} fp32 static"))
    return Deployment(found, ModelChoice.of(found[0].variant), HERE, "test")


def chosen(loaded: Deployment, batch: int, kv_len: int, q_len: int = 1) -> str:
    query = torch.zeros(batch, 4, q_len, 32)
    key = torch.zeros(batch, 2, kv_len, 32)
    held = CachedKV.given(query, key, key)
    return loaded.attention.way(query, held).configuration.variant.backend


@SAYS_NOTHING
def test_the_nearest_workload_by_phase_batch_and_length() -> None:
    loaded = measured(
        ("decode", 1, 128, "math"),
        ("decode", 1, 2048, "flash"),
        ("decode", 16, 128, "eager"),
        ("prefill", 1, 512, "eager"),
    )
    # Halfway between 128 and 2048, in logarithms, lies 512.
    assert [chosen(loaded, 1, n) for n in (1, 128, 511, 513, 4096)] == [
        *("math", "math", "math", "flash", "flash")
    ]
    assert [chosen(loaded, n, 128) for n in (1, 3, 5, 64)] == ["math", "math", "eager", "eager"]
    assert chosen(loaded, 1, 600, q_len=600) == "eager"


def said(loaded: Deployment, *calls: tuple[int, int]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for batch, kv_len in calls:
            chosen(loaded, batch, kv_len)
    return [str(one.message) for one in caught if one.category is DispatchWarning]


def test_what_was_not_measured_is_said_once() -> None:
    loaded = measured(("decode", 2, 128, "math"), ("decode", 4, 512, "flash"))
    assert said(loaded, (2, 128), (3, 300), (4, 520)) == []
    assert said(loaded, (2, 60), (2, 61), (3, 60)) == [
        "60 tokens lie below the 128 to 520 that were measured in decode; the nearest is used"
    ]
    assert said(loaded, (2, 521), (2, 9999)) == [
        "521 tokens lie above the 128 to 520 that were measured in decode; the nearest is used"
    ]
    assert said(loaded, (8, 128), (8, 128)) == [
        "batch 8 lies outside of 2 to 4, which were measured in decode; the nearest is used"
    ]
    with pytest.warns(DispatchWarning, match="prefill with score_mod none was not measured: back"):
        assert chosen(loaded, 2, 128, q_len=128) == "auto"


@given(
    st.lists(st.tuples(st.integers(1, 64), st.integers(1, 4096)), min_size=1, max_size=12),
    st.integers(1, 64),
    st.integers(1, 8192),
)
@example([(1, 1349), (2, 1348)], 3, 1)
def test_a_route_finds_the_nearest(points: list[tuple[int, int]], batch: int, length: int) -> None:
    measured = [
        configured(Workload.model_validate(SHAPE | {"batch": b, "seq_len": s}), "math fp32 static")
        for b, s in points
    ]
    route = Route(measured, batch)

    def distance(b: int, s: int) -> float:
        return math.log(s / length) ** 2 + math.log(b / batch) ** 2

    workload = route.configurations[route.index(length)].workload
    least = min(itertools.starmap(distance, points))
    assert distance(workload.batch, workload.seq_len) == pytest.approx(least, abs=1e-9)


def test_parabolas_that_are_never_lowest_own_nothing() -> None:
    assert lowest_parabolas([(0.0, 0.0), (1.0, 5.0), (2.0, 0.0)]) == ([1.0], [0, 2])
    assert lowest_parabolas([(1.0, 2.0), (1.0, 1.0)]) == ([], [1])


@SAYS_NOTHING
def test_a_model_of_another_shape_or_type_is_refused() -> None:
    attention = deployment("math fp32 static").attention
    with pytest.raises(ValueError, match=r"query must have 4 heads of 32, .*; got 2 of 32"):
        attention(tokens(2, 3, 0), tokens(2, 3, 0), tokens(2, 3, 0))
    with pytest.raises(ValueError, match=r"key must have 2 heads of 32, .*; got 4 of 32"):
        attention(tokens(4, 3, 0), tokens(4, 3, 0), tokens(4, 3, 0))
    half = tokens(4, 3, 0).bfloat16()
    with pytest.raises(
        ValueError, match=r"query must be of torch.float32, .*; got torch.bfloat16"
    ):
        attention(half, half[:, :2], half[:, :2])
    with pytest.raises(ValueError, match="mask must hold booleans for 3 keys"):
        attention(tokens(4, 3, 0), tokens(2, 3, 0), tokens(2, 3, 0), mask=torch.ones(1, 1, 3, 4))


@SAYS_NOTHING
def test_another_shape_is_refused_on_every_call_also_after_a_decision() -> None:
    attention = deployment("math fp32 static").attention
    query, key, narrow = tokens(4, 3, 0), tokens(2, 3, 0), tokens(2, 3, 0)[..., :16]
    attention(query, key, key)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"key must have 2 heads of 32, .*; got 4 of 32"):
            attention(query, tokens(4, 3, 0), tokens(4, 3, 0))
        with pytest.raises(ValueError, match=r"value must have 2 heads of 32, .*; got 2 of 16"):
            attention(query, key, narrow)
        with pytest.raises(ValueError, match=r"value must have 2 heads of 32, .*; got 1 of 32"):
            attention(query, key, key[:, :1])


@SAYS_NOTHING
@pytest.mark.parametrize("backend", ["eager", "math", "flash"])
def test_more_queries_than_keys_are_refused(backend: str) -> None:
    attention = deployment(f"{backend} fp32 static").attention
    with pytest.raises(ValueError, match="no more than those; got 5 queries and 3 keys"):
        attention(tokens(4, 5, 0), tokens(2, 3, 0), tokens(2, 3, 0))


@pytest.mark.parametrize(
    ("kind", "kv_dtype", "most"),
    [
        *(("concat", "same", 0.0), ("static", "same", 0.0), ("ring", "same", 0.0)),
        *(("static", "int8", 1e-2), ("static", "fp8", 5e-2)),
    ],
)
def test_a_cache_keeps_values_of_another_width_than_keys(
    kind: str, kv_dtype: str, most: float
) -> None:
    score_mod = "sliding_window:9" if kind == "ring" else "none"
    choices = {} if kv_dtype == "same" else {"kv_dtype": kv_dtype}
    loaded = deployment(f"eager fp32 {kind}", score_mod=score_mod, **choices)
    cache = loaded.cache(12, window=9 if kind == "ring" else None)
    key, value = tokens(2, 9, 0), tokens(2, 9, 1)[..., :20]
    cache.append(key[:, :, :8], value[:, :, :8])
    held = cache.append(key[:, :, 8:], value[:, :, 8:])
    read = held.read(stored=False)
    scales = (held.codec.key_scale, held.codec.value_scale) if held.codec else (None, None)
    for got, wanted, scale in zip(read, (key, value), scales, strict=True):
        whole = got if scale is None else got * scale[:, :, None, None]
        assert whole.shape == wanted.shape
        assert error(whole, wanted) <= most
    assert held.layout == (2, 32, 2, 20)


def test_a_cache_takes_no_tokens_of_another_batch_or_shape() -> None:
    cache = deployment("math fp32 static").cache(60)
    with pytest.raises(ValueError, match="as many sequences, heads and tokens, got"):
        cache.append(tokens(2, 3, 0), tokens(2, 4, 0))
    cache.append(tokens(2, 3, 0), tokens(2, 3, 0))
    one = tokens(2, 1, 0)
    for other in (one[:1], one[:, :1]):
        with pytest.raises(ValueError, match=r"2 sequences and 2 heads of 32, .* got \("):
            cache.append(other, other)
    assert cache.length == 3


def test_gradients_pass_through() -> None:
    attention = deployment("math fp32 static").attention
    query = tokens(4, 12, 0).requires_grad_()
    with pytest.warns(DispatchWarning, match="train with score_mod none was not measured"):
        out = attention(query, tokens(2, 12, 1), tokens(2, 12, 2))
    out.sum().backward()
    assert query.grad is not None


@SAYS_NOTHING
def test_long_sequences_outgrow_what_was_prepared() -> None:
    attention = deployment("eager fp32 static", score_mod="softcap:2").attention
    query, key = tokens(4, 1, 0), tokens(2, 9000, 1)
    attention(query, key[:, :, :50], key[:, :, :50])
    assert error(attention(query, key, key), expected(query, key, key, "softcap:2")) < 1e-5


def attention_layers(dtype: torch.dtype) -> nn.Module:
    def layer() -> nn.Module:
        found = nn.Module()
        for name in "qkvo":
            found.add_module(f"{name}_proj", nn.Linear(64, 64, dtype=dtype))
        return found

    return nn.Sequential(layer(), nn.Linear(64, 64, dtype=dtype), layer())


def test_quantize_finds_attention_layers_and_leaves_the_rest() -> None:
    loaded = deployment("math fp32 static", quantization="int8_weight_only")
    model = attention_layers(torch.float32)
    hidden = tokens(1, 64, 0)[0, 0].reshape(-1, 64)
    before = model[0].q_proj(hidden)
    assert loaded.quantize(model) == 2
    after = model[0].q_proj(hidden)
    assert 1e-4 < error(after, before) < 3e-2
    assert type(model[1].weight.data) is Tensor
    with pytest.raises(ValueError, match=r"projections must be of torch.float32"):
        loaded.quantize(attention_layers(torch.bfloat16))
    with pytest.raises(ValueError, match=r"module must hold layers with q_proj, .*, got none"):
        loaded.quantize(nn.Linear(8, 8))


@SAYS_NOTHING
@pytest.mark.cuda
@pytest.mark.parametrize(
    ("words", "choices", "most"),
    [
        ("flash bf16 static", {}, 1e-2),
        ("cudnn bf16 concat", {}, 1e-2),
        ("efficient bf16 static", {"gqa": "repeat_kv"}, 1e-2),
        ("flex bf16 static", {}, 1e-2),
        ("flex bf16 paged", {}, 1e-2),
        ("flex bf16 static", {"kv_dtype": "fp8"}, 0.1),
        ("math bf16 static", {"execution": "compiled"}, 1e-2),
    ],
)
def test_decoding_with_the_cache_on_cuda(words: str, choices: dict[str, str], most: float) -> None:
    here = detect_device("cuda")
    workload = Workload.model_validate(SHAPE | {"seq_len": PROMPT})
    of = configured(workload, words, **choices)
    loaded = Deployment([of], ModelChoice.of(of.variant), here, "test")
    cache = loaded.cache(60)
    total = PROMPT + STEPS
    query, key, value = (tokens(heads, total, heads).cuda() for heads in (4, 2, 2))
    outs = []
    with torch.inference_mode():
        for rows in (slice(0, PROMPT), *(slice(i, i + 1) for i in range(PROMPT, total))):
            parts = (part[:, :, rows].to(loaded.dtype) for part in (query, key, value))
            outs.append(loaded.attention(*parts, cache=cache))
    out = torch.cat(outs, dim=2).cpu()
    assert error(out, expected(query.cpu(), key.cpu(), value.cpu(), "none")) < most


def test_the_overhead_of_dispatch_is_measured_without_the_backend() -> None:
    first, later, median = dispatch_us(deployment("eager fp32 static"))
    assert 0 < later <= median
    assert first > 0
