"""Families that are told positions by a penalty on distance, or may be: ALiBi."""

from __future__ import annotations

from variants.models.family import MULTI_HEAD, Family, Names
from variants.models.fields import Fields, shown

_MPT = Names(
    q_heads=("n_heads", "num_attention_heads"),
    head_dim=(),
    hidden_size=("d_model", "hidden_size"),
    layers=("n_layers", "num_hidden_layers"),
)
_FALCON = Names(
    q_heads=("num_attention_heads", "n_head"),
    head_dim=(),
    hidden_size=("hidden_size", "n_embed"),
    layers=("num_hidden_layers", "n_layer"),
)


def _always(fields: Fields) -> tuple[str, ...]:
    return ("alibi",)


def _of_mpt(fields: Fields) -> tuple[str, ...]:
    attention = fields.inside("attn_config")
    attention.must_be("prefix_lm", [False], "prompts are causal here")
    attention.must_be("attn_uses_sequence_id", [False], "one sequence a row here")
    attention.must_be("sliding_window_size", [-1], "no window is declared for it")
    attention.must_be("alibi_bias_max", [8], "the slopes of ALiBi's paper")
    return ("alibi",) if attention.flag("alibi", default=True) else ()


def _kv_heads_of_mpt(fields: Fields, q_heads: int) -> int:
    attention = fields.inside("attn_config")
    kind = attention.value("attn_type", default="multihead_attention")
    told = attention.optional_size("kv_n_heads")
    if kind == "grouped_query_attention":
        return attention.size("kv_n_heads")
    heads = {"multihead_attention": q_heads, "multiquery_attention": 1}
    if not isinstance(kind, str) or kind not in heads:
        raise attention.refuse(
            f"attn_type must be {', '.join(heads)} or grouped_query_attention, got {shown(kind)}"
        )
    if told not in (None, heads[kind]):
        raise attention.refuse(f"kv_n_heads {told} contradicts attn_type {kind}")
    return heads[kind]


def _not_of_falcon(fields: Fields) -> tuple[str, ...]:
    # It adds the penalty before it divides by √head_dim: other slopes than ours.
    fields.must_be("alibi", [False], "Falcon's slopes are others than ours")
    return ()


def _kv_heads_of_falcon(fields: Fields, q_heads: int) -> int:
    grouped = fields.flag("new_decoder_architecture", default=False)
    shared = fields.flag("multi_query", default=True)
    told = fields.optional_size("num_kv_heads")
    if shared and not grouped:
        return 1
    return told or q_heads


def _kv_heads_of_refined_web(fields: Fields, q_heads: int) -> int:
    shared = fields.flag("multi_query", default=False)
    told = fields.optional_size("n_head_kv")
    if shared and told not in (None, 1):
        raise fields.refuse(f"n_head_kv {told} contradicts multi_query, 1 head")
    return 1 if shared else told or q_heads


def _of_baichuan(fields: Fields) -> tuple[str, ...]:
    # No field says it: the models of 7B (4096) rotate, those of 13B (5120) have ALiBi.
    hidden_size = fields.size("hidden_size")
    if hidden_size not in (4096, 5120):
        raise fields.refuse(
            f"hidden_size must be 4096 or 5120, which tells rotation from ALiBi, got {hidden_size}"
        )
    return ("alibi",) if hidden_size == 5120 else ()


ALIBI_FAMILIES = (
    Family(
        ("bloom",),
        names=Names(
            q_heads=("n_head", "num_attention_heads"),
            kv_heads=(),
            head_dim=(),
            hidden_size=("hidden_size", "n_embed"),
            layers=("n_layer", "num_hidden_layers"),
        ),
        q_heads=8,
        hidden_size=64,
        layers=2,
        score_mods=_always,
        ignored="offset_alibi",
    ),
    Family(
        ("mpt",),
        names=_MPT,
        q_heads=16,
        hidden_size=2048,
        layers=24,
        score_mods=_of_mpt,
        kv_rule=_kv_heads_of_mpt,
    ),
    Family(
        ("falcon",),
        names=_FALCON,
        q_heads=71,
        hidden_size=4544,
        layers=32,
        score_mods=_not_of_falcon,
        kv_rule=_kv_heads_of_falcon,
    ),
    # As Falcon was first published.
    Family(
        ("RefinedWeb", "RefinedWebModel"),
        names=_FALCON,
        score_mods=_not_of_falcon,
        kv_rule=_kv_heads_of_refined_web,
    ),
    Family(("baichuan",), names=MULTI_HEAD, score_mods=_of_baichuan),
)
