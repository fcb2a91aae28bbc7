"""The contract of every cache kind and kv_dtype."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from variants.backends import BACKENDS
from variants.caches import CACHES, PAGE, CacheOverflowError, CacheShape, KVCache, PagedCache
from variants.kv_dtypes import KV_DTYPES, Codec, PlaneSpec

CPU = torch.device("cpu")
KINDS = [name for name, kind in CACHES.items() if kind.cache is not None]
CONTEXT, CAPACITY = 5, 8
SPECS = (PlaneSpec(torch.float32, 4), PlaneSpec(torch.int8, 1))


def filled(
    name: str, context: int = CONTEXT, capacity: int = CAPACITY, window: int = 3
) -> tuple[KVCache, list[torch.Tensor]]:
    """A cache of two sequences and three heads, and the planes of all tokens to come."""
    kind = CACHES[name]
    assert kind.cache is not None
    shape = CacheShape(2, 3, capacity, window if kind.windowed else None)
    everything = [
        torch.randn(2, 3, capacity, 4),
        torch.randint(-127, 127, (2, 3, capacity, 1), dtype=torch.int8),
    ]
    cache = kind.cache(SPECS, shape, context, CPU)
    for sequence in range(2):
        cache.fill(sequence, [plane[sequence : sequence + 1, :, :context] for plane in everything])
    cache.mark(capacity - context)
    return cache, everything


def append(cache: KVCache, everything: list[torch.Tensor]) -> list[torch.Tensor]:
    """Append the next token; returns what a query would see, in the order of tokens."""
    now = cache.length
    place = cache.place()
    planes = cache.write(cache.planes, [plane[:, :, now : now + 1] for plane in everything], place)
    cache.length += 1
    if isinstance(cache, PagedCache):
        return [_gathered(plane, cache) for plane in planes]
    return planes


def _gathered(pool: torch.Tensor, cache: PagedCache) -> torch.Tensor:
    """The tokens of each sequence, found through the table."""
    tokens = torch.arange(cache.length)
    slots = cache.table[:, tokens // PAGE] * PAGE + tokens % PAGE
    return pool[0][:, slots].transpose(0, 1)


def seen(name: str, plane: torch.Tensor, length: int, window: int) -> torch.Tensor:
    first = max(0, length - window) if CACHES[name].windowed else 0
    return plane[:, :, first:length]


def in_order(plane: torch.Tensor) -> torch.Tensor:
    """A ring keeps tokens in no order; rows as a sorted set."""
    rows = plane.double()
    return rows.gather(2, rows[..., :1].argsort(dim=2).expand_as(rows))


@pytest.mark.parametrize("name", KINDS)
def test_grows_token_by_token_and_again_after_a_rewind(name: str) -> None:
    cache, everything = filled(name)
    for _ in range(2):
        for length in range(CONTEXT + 1, CAPACITY + 1):
            planes = append(cache, everything)
            assert cache.length == length
            for found, plane in zip(planes, everything, strict=True):
                expected = seen(name, plane, length, window=3)
                if CACHES[name].windowed:
                    found, expected = in_order(found), in_order(expected)
                torch.testing.assert_close(found, expected, rtol=0, atol=0)
        cache.rewind()
        assert cache.length == CONTEXT


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(KINDS),
    context=st.integers(1, 300),
    more=st.integers(1, 20),
    window=st.integers(1, 40),
)
def test_any_context_window_and_growth(name: str, context: int, more: int, window: int) -> None:
    cache, everything = filled(name, context, context + more, window)
    for length in range(context + 1, context + more + 1):
        (keys, _), plane = append(cache, everything), everything[0]
        expected = seen(name, plane, length, window)
        assert keys.shape == expected.shape
        assert torch.equal(in_order(keys), in_order(expected))


@pytest.mark.parametrize("name", KINDS)
def test_refuses_overflow_and_stays_as_it_was(name: str) -> None:
    cache, everything = filled(name)
    while cache.length < CAPACITY:
        append(cache, everything)
    before = [plane.clone() for plane in cache.planes]
    with pytest.raises(CacheOverflowError, match="room for 8 tokens and holds 8; 1 more"):
        cache.place()
    assert cache.length == CAPACITY
    assert all(torch.equal(a, b) for a, b in zip(cache.planes, before, strict=True))


@pytest.mark.parametrize("name", KINDS)
def test_place_says_what_write_returns(name: str) -> None:
    cache, everything = filled(name)
    place = cache.place()
    planes = cache.write(cache.planes, [plane[:, :, 5:6] for plane in everything], place)
    assert {plane.shape[2] for plane in planes} == {place.kv_len}
    assert type(cache).place_of(cache.shape, CONTEXT).kv_len == place.kv_len


def test_rewound_concat_keeps_no_longer_tensor_alive() -> None:
    cache, everything = filled("concat")
    append(cache, everything)
    cache.rewind()
    for plane in cache.planes:
        assert plane.untyped_storage().nbytes() == plane.nbytes


def test_a_ring_holds_its_window_and_no_more() -> None:
    cache, _ = filled("ring", context=100, capacity=1000, window=16)
    assert {plane.shape[2] for plane in cache.planes} == {16 + 1}


def test_pages_are_taken_when_they_are_needed_and_given_back() -> None:
    cache, everything = filled("paged", context=PAGE - 1, capacity=PAGE + 2)
    assert isinstance(cache, PagedCache)
    free = len(cache._free)
    append(cache, everything)
    assert len(cache._free) == free
    append(cache, everything)  # the first token of a second page, for both sequences
    assert len(cache._free) == free - 2
    cache.rewind()
    assert len(cache._free) == free
    assert sorted(set(cache.table[:, 0].tolist())) == sorted(cache.table[:, 0].tolist())


def test_every_kind_is_reached_by_some_backend() -> None:
    assert all(
        any(s.paged for b in BACKENDS.values() for s in b.support.values()) or not kind.paged
        for kind in CACHES.values()
    )


def codec_of(name: str, dtype: torch.dtype) -> Codec:
    return KV_DTYPES[name].codec(2, 3, 16, dtype, CPU)


def stored(codec: Codec, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Keys and values after a round trip, their scales put back."""
    for sequence in range(2):
        codec.calibrate(sequence, key[sequence : sequence + 1], value[sequence : sequence + 1])
    scales = codec.scales[:2] if codec.scales else (None, None)
    return tuple(
        part if scale is None else part * scale[:, :, None, None]
        for part, scale in zip(codec.decode(codec.encode(key, value)), scales, strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", KV_DTYPES)
def test_a_stored_number_is_within_half_a_step(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    key, value = (torch.randn(2, 3, 40, 16).to(dtype) * 3 for _ in range(2))
    key[0, 0, 3] = 0  # a padded token
    key[0, 1, 4] *= 20  # an outlier of one token
    eps = torch.finfo(dtype).eps
    for before, after in zip((key, value), stored(codec_of(name, dtype), key, value), strict=True):
        error = (after.double() - before.double()).abs()
        most = before.double().abs()
        if name == "same":
            assert torch.equal(before, after)
        elif name == "int8":
            row = most.amax(dim=-1, keepdim=True)
            # Half a step; a scale that was rounded down clamps the largest; the product rounds.
            assert (error <= row * (0.5 / 127 + 2 * eps)).all()
        else:
            # Three bits of mantissa; below the smallest normal number, 2⁻⁹ of the scale.
            codec = codec_of(name, dtype)
            assert (error <= most * 2.0**-4 + most.amax() / 224 * 2.0**-9).all()
            assert codec.planes()[0].dtype is torch.float8_e4m3fn


def test_fp8_saturates_instead_of_making_nan() -> None:
    codec = codec_of("fp8", torch.float32)
    key = torch.randn(2, 3, 8, 16)
    codec.calibrate(0, key[:1], key[:1])
    codec.calibrate(1, key[1:], key[1:])
    later = key * 100  # a later token is far larger than the context
    assert all(plane.float().isfinite().all() for plane in codec.encode(later, later))


def test_fp8_scales_are_powers_of_two_and_leave_room() -> None:
    codec = codec_of("fp8", torch.bfloat16)
    key = torch.randn(2, 3, 8, 16, dtype=torch.bfloat16) * 1000
    stored(codec, key, key)
    scales = codec.scales
    assert scales is not None
    exponents = torch.log2(scales.key_float)
    assert torch.equal(exponents, exponents.round())
    assert torch.equal(scales.key.float(), scales.key_float)
    assert torch.equal(scales.value.float(), scales.value_float)
    largest = key.float().abs().amax(dim=(2, 3)) / scales.key_float
    assert (largest <= 224).all()
    assert (largest > 112).all()


def test_eight_bit_planes_are_half_of_bf16_and_their_scales() -> None:
    for name, bytes_of_a_token in {"same": 64, "int8": 2 * (16 + 2), "fp8": 32}.items():
        specs = codec_of(name, torch.bfloat16).planes()
        assert sum(spec.width * spec.dtype.itemsize for spec in specs) == bytes_of_a_token
