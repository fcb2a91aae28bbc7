from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from variants.score_mods import (
    SCORE_MODS,
    alibi_slopes,
    dense_bias,
    document_of,
    parse_score_mod,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", SCORE_MODS)
def test_dense_bias_is_what_the_definition_adds(name: str) -> None:
    heads, rows, kv_len = 4, range(3, 9), 9
    entry = SCORE_MODS[name]
    mod = entry.bind(5, heads, CPU)
    scores = torch.randn(heads, len(rows), kv_len)
    q_idx = torch.arange(rows.start, rows.stop)[:, None]
    kv_idx = torch.arange(kv_len)
    expected = scores
    if mod.score is not None and mod.additive:
        expected = mod.score(scores, torch.arange(heads)[:, None, None], q_idx, kv_idx)
    expected = expected.masked_fill(~mod.visible(q_idx, kv_idx), -math.inf)
    bias = dense_bias(mod, heads=heads, rows=rows, kv_len=kv_len, dtype=torch.float32, device=CPU)
    torch.testing.assert_close(scores + bias[0, ..., :kv_len], expected)


def test_every_row_of_a_dense_bias_is_aligned() -> None:
    bias = dense_bias(
        SCORE_MODS["alibi"].bind(0, 3, CPU),
        heads=3,
        rows=range(5, 9),
        kv_len=9,
        dtype=torch.bfloat16,
        device=CPU,
    )
    for head in range(3):
        for row in range(4):
            assert bias[0, head, row].storage_offset() % 16 == 0


@given(window=st.integers(1, 40), query=st.integers(0, 60))
def test_window_counts_the_querys_own_key(window: int, query: int) -> None:
    visible = SCORE_MODS["sliding_window"].bind(window, 1, CPU).visible
    seen = visible(torch.tensor(query), torch.arange(100))
    assert int(seen.sum()) == min(window, query + 1)
    assert bool(seen[query])


def test_causality_is_lower_right_behind_a_cache() -> None:
    # The mistake of the case study: with is_causal behind a cache, new tokens see only the first.
    bias = dense_bias(
        SCORE_MODS["none"].bind(0, 1, CPU),
        heads=1,
        rows=range(7, 8),
        kv_len=8,
        dtype=torch.float32,
        device=CPU,
    )
    assert torch.equal(bias[..., :8], torch.zeros(1, 1, 1, 8))


def test_alibi_slopes_are_the_papers() -> None:
    assert alibi_slopes(8) == [2.0**-k for k in range(1, 9)]
    # Twelve heads: the eight of 8 and every other one of 16 (Press et al., footnote 4).
    assert alibi_slopes(12) == alibi_slopes(8) + alibi_slopes(16)[:8:2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alibii", "must be one of none, alibi"),
        ("alibi:3", "takes no parameter"),
        ("sliding_window:0", "positive integer"),
        ("sliding_window:-1", "positive integer"),
        ("sliding_window:", "positive integer"),
        ("softcap:1e3", "positive integer"),
        ("softcap:٣", "positive integer"),
        ("softcap+softcap:3", "each once"),
        ("none+alibi", "no none"),
        ("prefix_lm+sliding_window", "would hide again"),
        ("alibi+", "must be one of none, alibi"),
    ],
)
def test_bad_score_mod_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_score_mod(text)


def test_canonical_form_holds_the_parameter() -> None:
    assert parse_score_mod("sliding_window").canonical == "sliding_window:256"
    chain = parse_score_mod("softcap+sliding_window:8")
    assert chain.canonical == "softcap:50+sliding_window:8"
    assert (chain.window, chain.additive, chain.masks) == (8, False, True)
    assert chain.without_window().canonical == "softcap:50"


def test_a_chain_scores_in_order_and_hides_what_any_part_hides() -> None:
    chain = parse_score_mod("alibi+softcap:2+sliding_window:3+document:4").bind(4, CPU)
    parts = [parse_score_mod(text).bind(4, CPU) for text in ("alibi", "softcap:2")]
    masks = [parse_score_mod(text).bind(4, CPU) for text in ("sliding_window:3", "document:4")]
    scores = torch.randn(4, 9, 9) * 5
    head, q_idx, kv_idx = torch.arange(4)[:, None, None], torch.arange(9)[:, None], torch.arange(9)
    expected = scores
    for part in parts:
        assert part.score is not None
        expected = part.score(expected, head, q_idx, kv_idx)
    assert chain.score is not None
    torch.testing.assert_close(chain.score(scores, head, q_idx, kv_idx), expected)
    seen = masks[0].visible(q_idx, kv_idx) & masks[1].visible(q_idx, kv_idx)
    assert torch.equal(chain.visible(q_idx, kv_idx), seen)


@given(mean=st.integers(2, 12))
def test_documents_of_a_half_one_and_one_and_a_half_follow_each_other(mean: int) -> None:
    owners = document_of(torch.arange(6 * mean), torch.tensor(mean)).tolist()
    lengths = [owners.count(index) for index in range(6)]
    assert lengths == [mean // 2, mean, 3 * mean - mean // 2 - mean] * 2
    assert owners == sorted(owners)


@given(prefix=st.integers(1, 20), query=st.integers(0, 40))
def test_a_prefix_is_seen_by_all_and_the_rest_is_causal(prefix: int, query: int) -> None:
    visible = parse_score_mod(f"prefix_lm:{prefix}").bind(1, CPU).visible
    seen = visible(torch.tensor(query), torch.arange(50))
    assert int(seen.sum()) == max(prefix, query + 1)
