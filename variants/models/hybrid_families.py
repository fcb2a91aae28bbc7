"""Families whose layers do not all attend: recurrences, convolutions and MLPs between them."""

from __future__ import annotations

from variants.models.family import COMPUTED_HEAD_DIM, Family, Names
from variants.models.fields import Fields, shown
from variants.models.layer_kinds import (
    FULL_OR_CONVOLUTION,
    FULL_OR_RECURRENT,
    FULL_OR_WINDOW,
    Kind,
    all_or_at,
    attention_at,
    attention_at_offset,
    attention_every,
    by_numbers,
    kinds_of,
    listed,
    repeated,
)

_MAMBA = r"mamba_.*|use_mamba_kernels|use_mambapy|use_associative_scan|.*conv.*|ssm_.*"
_DELTA = r"linear_.*|mamba_ssm_dtype|attn_output_gate|full_attention_interval"
_LETTERS = {"M": Kind.OTHER, "E": Kind.OTHER, "-": Kind.OTHER, "*": Kind.FULL}
_BLOCKS = FULL_OR_RECURRENT | {"mlp": Kind.OTHER, "moe": Kind.OTHER}


def _blocks_of_nemotron(fields: Fields) -> list[Kind]:
    pattern = fields.value("hybrid_override_pattern")
    blocks = fields.names("layers_block_type")
    if pattern is None and blocks is None:
        raise fields.refuse("hybrid_override_pattern must be there, got none")
    if pattern is not None and not isinstance(pattern, str):
        raise fields.refuse(f"hybrid_override_pattern must be a text, got {shown(pattern)}")
    told = [
        kinds_of(fields, field, list(types), names, len(types))
        for field, types, names in (
            ("hybrid_override_pattern", pattern, _LETTERS),
            ("layers_block_type", blocks, _BLOCKS),
        )
        if types is not None
    ]
    if told[0] != told[-1]:
        raise fields.refuse("hybrid_override_pattern contradicts layers_block_type")
    return told[0]


def _of_nemotron(fields: Fields, layers: int) -> list[Kind]:
    kinds = _blocks_of_nemotron(fields)
    if len(kinds) != layers:
        raise fields.refuse(
            f"hybrid_override_pattern must have {layers} layers, num_hidden_layers; "
            f"got {len(kinds)}"
        )
    return kinds


def _layers_of_nemotron(fields: Fields) -> int:
    return fields.size("num_hidden_layers", default=len(_blocks_of_nemotron(fields)))


def _must_be_listed(fields: Fields, layers: int) -> list[Kind]:
    raise fields.refuse("layer_types must be there, got none")


_OF_MINIMAX = listed(
    FULL_OR_RECURRENT,
    by_numbers("attn_type_list", {0: Kind.OTHER, 1: Kind.FULL}, _must_be_listed),
    beside=("attn_type_list",),
)
_MINIMAX = r"(full|linear)_attn_(alpha|beta)_factor|block_size|shared_moe_mode"

# fmt: off
DELTA_NETS = (
    Family(("qwen3_next",), q_heads=16, kv_heads=2, head_dim=256, hidden_size=2048, layers=48,
           kinds=listed(FULL_OR_RECURRENT, attention_every("full_attention_interval", 4)),
           ignored=_DELTA),
    Family(("qwen3_5_text",), q_heads=16, kv_heads=4, head_dim=256, hidden_size=4096, layers=32,
           kinds=listed(FULL_OR_RECURRENT, attention_every("full_attention_interval", 4)),
           ignored=_DELTA),
    Family(("qwen3_5_moe_text",), q_heads=16, kv_heads=2, head_dim=256, hidden_size=2048,
           layers=40,
           kinds=listed(FULL_OR_RECURRENT, attention_every("full_attention_interval", 4)),
           ignored=_DELTA),
    Family(("olmo_hybrid",), q_heads=30, hidden_size=3840, layers=32,
           kinds=listed(FULL_OR_RECURRENT, _must_be_listed), ignored=_DELTA),
)

MAMBAS = (
    Family(("jamba",), q_heads=32, kv_heads=8, hidden_size=4096, layers=32,
           kinds=attention_at_offset, ignored=_MAMBA + r"|expert_layer_(period|offset)"),
    Family(("bamba",), q_heads=32, kv_heads=8, hidden_size=4096, layers=32,
           kinds=attention_at("attn_layer_indices"), ignored=_MAMBA + "|attn_rotary_emb"),
    Family(("granitemoehybrid",), q_heads=32, hidden_size=4096, layers=32,
           kinds=listed(FULL_OR_RECURRENT, listed(FULL_OR_RECURRENT, _must_be_listed,
                                                  field="layers_block_type"),
                        beside=("layers_block_type",)),
           ignored=_MAMBA),
    # Each layer has both, side by side.
    Family(("falcon_h1",), q_heads=32, kv_heads=8, hidden_size=4096, layers=32,
           ignored=_MAMBA + r"|(key|attention_in|attention_out)_multiplier"),
    Family(("nemotron_h",), q_heads=32, kv_heads=8, head_dim=128, hidden_size=4096,
           names=Names(head_dim=("head_dim", "attention_head_dim")),
           kinds=_of_nemotron, layers_rule=_layers_of_nemotron,
           ignored=_MAMBA + "|n_groups|chunk_size|ssm_state_size"),
)

OTHERS = (
    Family(("lfm2",), q_heads=32, kv_heads=8, hidden_size=2560, layers=32,
           names=Names(q_heads=("num_attention_heads", "num_heads"),
                       hidden_size=("hidden_size", "block_dim")),
           kinds=listed(FULL_OR_CONVOLUTION, all_or_at("full_attn_idxs"),
                        beside=("full_attn_idxs",)),
           ignored=r"block_.*|.*conv.*"),
    Family(("lfm2_moe",), q_heads=32, kv_heads=8, hidden_size=2048, layers=32,
           kinds=listed(FULL_OR_CONVOLUTION, _must_be_listed, beside=("full_attn_idxs",)),
           ignored=r"block_.*|.*conv.*"),
    Family(("lfm3",), q_heads=16, kv_heads=4, head_dim=128, hidden_size=2048, layers=24,
           window=256,
           kinds=listed(FULL_OR_CONVOLUTION | FULL_OR_WINDOW, _must_be_listed),
           ignored=r".*conv.*|use_attention_gate"),
    Family(("minimax",), q_heads=32, kv_heads=8, hidden_size=4096, layers=32,
           kinds=_OF_MINIMAX, ignored=_MINIMAX),
    Family(("minimax_text_01", "MiniMaxText01", "minimax_m1", "MiniMaxM1"), kinds=_OF_MINIMAX,
           ignored=_MINIMAX),
    Family(("recurrent_gemma",), q_heads=10, hidden_size=2560, layers=26, window=2048,
           names=Names(head_dim=COMPUTED_HEAD_DIM.head_dim,
                       window=("attention_window_size", "sliding_window")),
           kinds=repeated({"recurrent": Kind.OTHER, "attention": Kind.WINDOW},
                          ("recurrent", "recurrent", "attention"), "block_types",
                          "_block_types"),
           ignored="conv1d_width|lru_width"),
)
# fmt: on

HYBRID_FAMILIES = (*DELTA_NETS, *MAMBAS, *OTHERS)
