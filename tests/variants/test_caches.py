"""The contract of every cache kind."""

from __future__ import annotations

import pytest
import torch

from variants.caches import CACHES, CacheOverflowError, KVCache

CONTEXT, CAPACITY = 5, 8
KINDS = [name for name, kind in CACHES.items() if kind.cache is not None]


def filled(name: str) -> tuple[KVCache, torch.Tensor]:
    kind = CACHES[name].cache
    assert kind is not None
    everything = torch.randn(2, 3, CAPACITY + 1, 4)
    tokens = kind.allocated_tokens(CONTEXT, CAPACITY)
    key = torch.zeros(2, 3, tokens, 4)
    key[:, :, :CONTEXT] = everything[:, :, :CONTEXT]
    return kind(key, -key, CONTEXT, CAPACITY), everything


@pytest.mark.parametrize("name", KINDS)
def test_grows_token_by_token(name: str) -> None:
    cache, everything = filled(name)
    for _ in range(2):
        for length in range(CONTEXT + 1, CAPACITY + 1):
            new = everything[:, :, length - 1 : length]
            key, value = cache.append(new, -new)
            torch.testing.assert_close(key, everything[:, :, :length])
            torch.testing.assert_close(value, -everything[:, :, :length])
            assert cache.length == length
        cache.truncate(CONTEXT)


@pytest.mark.parametrize("name", KINDS)
def test_refuses_overflow_and_stays_as_it_was(name: str) -> None:
    cache, everything = filled(name)
    with pytest.raises(CacheOverflowError, match="room for 8 tokens and holds 5; 4 more"):
        cache.append(everything[:, :, :4], everything[:, :, :4])
    assert cache.length == CONTEXT


def test_truncated_concat_keeps_no_longer_tensor_alive() -> None:
    cache, everything = filled("concat")
    cache.append(everything[:, :, 5:8], everything[:, :, 5:8])
    cache.truncate(CONTEXT)
    assert cache.key.untyped_storage().nbytes() == cache.key.nbytes
