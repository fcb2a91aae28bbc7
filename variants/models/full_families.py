"""Families whose every layer sees all tokens before its own."""

from __future__ import annotations

from variants.models.family import COMPUTED_HEAD_DIM, MULTI_HEAD, Family, Names
from variants.models.fields import Fields
from variants.models.layer_kinds import Kind, by_numbers, cross_attention_at, every_layer

_GPT2 = Names(
    q_heads=("n_head", "num_attention_heads"),
    kv_heads=(),
    head_dim=(),
    hidden_size=("n_embd", "hidden_size"),
    layers=("n_layer", "num_hidden_layers"),
)


def _one_if_multi_query(fields: Fields, q_heads: int) -> int:
    told = fields.optional_size("num_key_value_heads")
    kv_heads = 1 if fields.flag("multi_query", default=True) else q_heads
    if told not in (None, kv_heads):
        raise fields.refuse(
            f"num_key_value_heads {told} contradicts multi_query, {kv_heads} heads"
        )
    return kv_heads


def _of_dbrx(fields: Fields, q_heads: int) -> int:
    told = fields.optional_size("num_key_value_heads")
    kv_heads = fields.inside("attn_config").size("kv_n_heads", default=1)
    if told not in (None, kv_heads):
        raise fields.refuse(f"num_key_value_heads {told} contradicts kv_n_heads {kv_heads}")
    return kv_heads


def _of_chatglm(fields: Fields, q_heads: int) -> int:
    if not fields.flag("multi_query_attention", default=False):
        return q_heads
    return fields.size("multi_query_group_num")


# fmt: off
LLAMAS = (
    Family(("llama",), q_heads=32, hidden_size=4096, layers=32),
    Family(("arcee",), q_heads=32, hidden_size=2560, layers=32),
    Family(("apertus",), q_heads=32, hidden_size=4096, layers=32),
    Family(("aria_text",), q_heads=32, hidden_size=4096, layers=32),
    Family(("bitnet",), q_heads=20, kv_heads=5, hidden_size=2560, layers=30),
    Family(("cohere",), q_heads=64, hidden_size=8192, layers=40),
    Family(("emu3_text_model",), q_heads=32, kv_heads=8, hidden_size=4096, layers=32),
    Family(("ernie4_5",), q_heads=16, kv_heads=2, head_dim=128, hidden_size=1024, layers=18),
    Family(("ernie4_5_moe",), q_heads=20, kv_heads=4, hidden_size=2560, layers=28),
    Family(("flex_olmo",), q_heads=32, hidden_size=4096, layers=32),
    Family(("gemma",), q_heads=16, kv_heads=16, head_dim=256, hidden_size=3072, layers=28),
    Family(("glm", "glm4"), q_heads=32, kv_heads=2, head_dim=128, hidden_size=4096, layers=40),
    Family(("glm4_moe",), q_heads=96, kv_heads=8, hidden_size=4096, layers=46),
    Family(("glm4v_text",), q_heads=32, kv_heads=2, hidden_size=4096, layers=40,
           names=COMPUTED_HEAD_DIM),
    Family(("glm4v_moe_text",), q_heads=96, kv_heads=8, hidden_size=4096, layers=46),
    Family(("granite", "granitemoe", "granitemoeshared"), q_heads=32, hidden_size=4096, layers=32),
    Family(("helium",), q_heads=20, kv_heads=20, head_dim=128, hidden_size=2560, layers=24,
           names=COMPUTED_HEAD_DIM),
    Family(("hunyuan_v1_dense", "hunyuan_v1_moe"), q_heads=32, hidden_size=4096, layers=32,
           names=Names(head_dim=("head_dim", "attention_head_dim")),
           ignored="cla_share_factor"),  # of use_cla, which is refused where it is true
    Family(("hy_v3",), q_heads=64, kv_heads=8, head_dim=128, hidden_size=4096, layers=80),
    Family(("hyperclovax",), q_heads=32, hidden_size=4096, layers=32),
    Family(("internlm3",), q_heads=32, kv_heads=2, head_dim=128, hidden_size=4096, layers=48),
    Family(("iquestcoder",), q_heads=40, kv_heads=8, head_dim=128, hidden_size=5120, layers=80),
    Family(("jais2",), q_heads=26, hidden_size=3328, layers=32),
    Family(("minimax_m2",), q_heads=48, kv_heads=8, head_dim=128, hidden_size=3072, layers=62,
           kinds=by_numbers("attn_type_list", {1: Kind.FULL}, every_layer)),
    Family(("mllama_text_model",), q_heads=32, kv_heads=8, hidden_size=4096, layers=40,
           names=COMPUTED_HEAD_DIM,
           kinds=cross_attention_at("cross_attention_layers", (3, 8, 13, 18, 23, 28, 33, 38))),
    Family(("nanochat",), q_heads=6, hidden_size=768, layers=12),
    Family(("nemotron",), q_heads=48, hidden_size=6144, layers=32),
    Family(("olmo", "olmo2"), q_heads=32, hidden_size=4096, layers=32),
    Family(("olmoe",), q_heads=16, hidden_size=2048, layers=16),
    Family(("paddleocr_vl_text",), q_heads=16, kv_heads=2, head_dim=128, hidden_size=1024,
           layers=18),
    Family(("phi",), q_heads=32, hidden_size=2048, layers=24),
    Family(("qwen3_omni_moe_text",), q_heads=28, kv_heads=4, hidden_size=2048, layers=28,
           ignored="max_window_layers"),
    Family(("qwen3_vl_text",), q_heads=32, kv_heads=32, head_dim=128, hidden_size=4096,
           layers=32),
    Family(("qwen3_vl_moe_text",), q_heads=16, kv_heads=16, hidden_size=2048, layers=24),
    Family(("seed_oss",), q_heads=80, kv_heads=8, head_dim=128, hidden_size=4096, layers=64),
    Family(("solar_open",), q_heads=64, kv_heads=8, head_dim=128, hidden_size=4096, layers=48),
    Family(("stablelm",), q_heads=32, kv_heads=32, hidden_size=2560, layers=32,
           names=COMPUTED_HEAD_DIM),
    # Their classes come with their files, which say every size.
    Family(("Yi", "aquila", "bailing_moe", "bailing_moe_v2", "deepseek", "internlm2", "minicpm",
            "orion", "stablelm_epoch")),
    Family(("exaone",), names=Names(layers=("num_layers", "num_hidden_layers"))),
)

MULTI_HEADS = (
    Family(("gpt2",), names=_GPT2, q_heads=12, hidden_size=768, layers=12),
    Family(("openai-gpt",), names=_GPT2, q_heads=12, hidden_size=768, layers=12),
    Family(("gptj", "codegen"), names=_GPT2, q_heads=16, hidden_size=4096, layers=28),
    Family(("ctrl",), names=_GPT2, q_heads=16, hidden_size=1280, layers=48),
    Family(("gpt_neox",), names=MULTI_HEAD, q_heads=64, hidden_size=6144, layers=44),
    Family(("gpt_neox_japanese",), names=MULTI_HEAD, q_heads=32, hidden_size=2560, layers=32),
    Family(("opt",), names=MULTI_HEAD, q_heads=12, hidden_size=768, layers=12),
    Family(("persimmon",), names=MULTI_HEAD, q_heads=64, hidden_size=4096, layers=36),
    Family(("biogpt",), names=MULTI_HEAD, q_heads=16, hidden_size=1024, layers=24),
    Family(("xglm",), q_heads=16, hidden_size=1024, layers=24,
           names=Names(q_heads=("attention_heads", "num_attention_heads"), kv_heads=(),
                       head_dim=(), hidden_size=("d_model", "hidden_size"),
                       layers=("num_layers", "num_hidden_layers"))),
    Family(("internlm", "xverse"), names=MULTI_HEAD),
    Family(("qwen",), names=Names(kv_heads=(), head_dim=("kv_channels",))),
)
# fmt: on

SHARED_HEADS = (
    Family(
        ("gpt_bigcode",),
        names=_GPT2,
        q_heads=12,
        hidden_size=768,
        layers=12,
        kv_rule=_one_if_multi_query,
    ),
    Family(
        ("dbrx",),
        names=Names(
            q_heads=("n_heads", "num_attention_heads"),
            head_dim=(),
            hidden_size=("d_model", "hidden_size"),
            layers=("n_layers", "num_hidden_layers"),
        ),
        q_heads=16,
        hidden_size=2048,
        layers=24,
        kv_rule=_of_dbrx,
    ),
    # The first ChatGLM sees its prompt in both directions; these fields came with the second.
    Family(
        ("chatglm",),
        names=Names(head_dim=("kv_channels",), layers=("num_layers", "num_hidden_layers")),
        kv_rule=_of_chatglm,
    ),
)

FULL_FAMILIES = (*LLAMAS, *MULTI_HEADS, *SHARED_HEADS)
