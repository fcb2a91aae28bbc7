"""Families that have layers with a sliding window, or may have them."""

from __future__ import annotations

from collections.abc import Callable

from variants.models.family import COMPUTED_HEAD_DIM, Family, Names
from variants.models.fields import LARGEST, Fields, shown
from variants.models.layer_kinds import (
    FULL_OR_WINDOW,
    Kind,
    every_layer,
    first_full_of,
    full_every,
    global_or_local,
    listed,
    window_from,
    window_from_always,
    window_in_every_layer,
)


def _softcap(default: int | None) -> Callable[[Fields], tuple[str, ...]]:
    def of(fields: Fields) -> tuple[str, ...]:
        cap = fields.value("attn_logit_softcapping", default=default)
        if cap is None:
            return ()
        number = isinstance(cap, int | float) and not isinstance(cap, bool)
        if not number or not 1 <= cap <= LARGEST or cap % 1:
            raise fields.refuse(
                f"attn_logit_softcapping must be a positive whole number here, got {shown(cap)}"
            )
        return (f"softcap:{int(cap)}",)

    return of


def _of_exaone(fields: Fields, layers: int) -> list[Kind]:
    """The pattern is a number of layers, or none where there is no window."""
    if fields.value("sliding_window", default=4096) is None:
        fields.given("sliding_window_pattern")
        return [Kind.FULL] * layers
    return full_every("sliding_window_pattern", default=4)(fields, layers)


def _of_phi(fields: Fields, layers: int) -> list[Kind]:
    fields.must_be("full_attn_mod", [1], "the same attention in every layer")
    return window_in_every_layer(None)(fields, layers)


def _of_cohere(fields: Fields, layers: int) -> list[Kind]:
    fields.must_be("order_of_interleaved_layers", ["local_attn_first"], "the order that is known")
    return full_every("sliding_window_pattern", "layer_switch", default=4)(fields, layers)


def _of_cohere_moe(fields: Fields, layers: int) -> list[Kind]:
    fields.must_be("first_k_dense_replace", [0], "its layers follow a pattern of their own")
    return full_every("sliding_window_pattern", default=4)(fields, layers)


_PATTERN = ("sliding_window_pattern", "_sliding_window_pattern")
_EVERY_OTHER = listed(
    FULL_OR_WINDOW, lambda _, layers: [Kind.FULL if i % 2 else Kind.WINDOW for i in range(layers)]
)
_FROM_28, _FROM_80, _SWITCHED_OFF = (
    listed(FULL_OR_WINDOW, window_from(first), beside=("max_window_layers",))
    for first in (28, 80, None)
)
_OF_DOTS = listed(
    FULL_OR_WINDOW, window_from_always(62), beside=("max_window_layers", "use_sliding_window")
)
_GEMMA_2_WINDOW = Names(window=("sliding_window", "sliding_window_size"))

# fmt: off
ALL_LAYERS = (
    Family(("mistral",), q_heads=32, kv_heads=8, hidden_size=4096, layers=32, window=4096,
           kinds=window_in_every_layer(4096)),
    Family(("mixtral",), q_heads=32, kv_heads=8, hidden_size=4096, layers=32,
           kinds=window_in_every_layer(None)),
    Family(("ministral3",), q_heads=32, kv_heads=8, head_dim=128, hidden_size=4096, layers=34,
           kinds=window_in_every_layer(None)),
    Family(("phi3",), q_heads=32, hidden_size=3072, layers=32, kinds=_of_phi),
    Family(("phimoe",), q_heads=32, kv_heads=8, hidden_size=4096, layers=32,
           kinds=window_in_every_layer(None)),
    Family(("starcoder2",), q_heads=24, kv_heads=2, hidden_size=3072, layers=30,
           kinds=window_in_every_layer(None)),
)

SWITCHED = (
    Family(("qwen2",), q_heads=32, kv_heads=32, hidden_size=4096, layers=32, window=4096,
           window_switch="use_sliding_window", kinds=_FROM_28),
    Family(("qwen2_vl_text", "qwen2_5_vl_text"), q_heads=64, kv_heads=8, hidden_size=8192,
           layers=80, window=4096, names=COMPUTED_HEAD_DIM, window_switch="use_sliding_window",
           kinds=_FROM_80),
    Family(("qwen2_5_omni_text",), q_heads=28, kv_heads=4, hidden_size=3584, layers=28,
           window=32768, window_switch="use_sliding_window", kinds=_FROM_28),
    Family(("qwen2_moe",), q_heads=16, kv_heads=16, hidden_size=2048, layers=24, window=4096,
           window_switch="use_sliding_window", kinds=_SWITCHED_OFF),
    Family(("qwen3",), q_heads=32, kv_heads=32, head_dim=128, hidden_size=4096, layers=32,
           window=4096, window_switch="use_sliding_window", kinds=_FROM_28),
    Family(("qwen3_moe",), q_heads=32, kv_heads=4, hidden_size=2048, layers=24, window=4096,
           window_switch="use_sliding_window", kinds=_SWITCHED_OFF),
    Family(("smollm3",), q_heads=16, kv_heads=4, hidden_size=2048, layers=36,
           window_switch="use_sliding_window", kinds=_SWITCHED_OFF,
           ignored="no_rope_layers|no_rope_layer_interval"),
    # Its class comes with its files, which say every size.
    Family(("mimo",), window_switch="use_sliding_window", kinds=_SWITCHED_OFF),
    Family(("dots1",), q_heads=32, kv_heads=32, hidden_size=4608, layers=62, window=4096,
           kinds=_OF_DOTS),
)

SOME_LAYERS = (
    Family(("gemma2",), q_heads=8, kv_heads=4, head_dim=256, hidden_size=2304, layers=26,
           window=4096, names=_GEMMA_2_WINDOW, kinds=_EVERY_OTHER, score_mods=_softcap(50)),
    Family(("vaultgemma",), q_heads=8, kv_heads=4, head_dim=256, hidden_size=2304, layers=26,
           window=4096, kinds=_EVERY_OTHER, score_mods=_softcap(50)),
    Family(("gemma3_text",), q_heads=8, kv_heads=4, head_dim=256, hidden_size=2304, layers=26,
           window=4096, score_mods=_softcap(None),
           kinds=listed(FULL_OR_WINDOW, full_every(*_PATTERN, default=6), beside=_PATTERN)),
    Family(("ministral",), q_heads=32, kv_heads=8, hidden_size=4096, layers=32, window=4096,
           kinds=listed(FULL_OR_WINDOW, window_in_every_layer(4096))),
    Family(("cohere2",), q_heads=64, hidden_size=8192, layers=40, window=4096,
           names=COMPUTED_HEAD_DIM,
           kinds=listed(FULL_OR_WINDOW, _of_cohere,
                        beside=("sliding_window_pattern", "layer_switch",
                                "order_of_interleaved_layers"))),
    Family(("cohere2_moe",), q_heads=64, head_dim=128, hidden_size=8192, layers=40, window=4096,
           kinds=listed(FULL_OR_WINDOW, _of_cohere_moe,
                        beside=("sliding_window_pattern",
                                "prefix_dense_sliding_window_pattern")),
           ignored="prefix_dense_sliding_window_pattern"),
    Family(("olmo3",), q_heads=32, hidden_size=4096, layers=32, window=4096,
           kinds=listed(FULL_OR_WINDOW, full_every("sliding_window_pattern", default=4))),
    Family(("exaone4", "exaone_moe"), q_heads=32, kv_heads=32, hidden_size=4096, layers=32,
           window=4096,
           kinds=listed(FULL_OR_WINDOW, _of_exaone, beside=("sliding_window_pattern",))),
    Family(("afmoe",), q_heads=16, head_dim=128, hidden_size=2048, layers=32, window=1024,
           kinds=listed(FULL_OR_WINDOW, full_every("global_attn_every_n_layers", default=4),
                        beside=("global_attn_every_n_layers",))),
    Family(("cwm",), q_heads=48, kv_heads=8, head_dim=128, hidden_size=6144, layers=64,
           window=8192, kinds=listed(FULL_OR_WINDOW, first_full_of(4))),
    Family(("mellum",), q_heads=32, kv_heads=4, head_dim=128, hidden_size=2304, layers=28,
           window=1024, kinds=listed(FULL_OR_WINDOW, every_layer)),
    Family(("kolibri1",), q_heads=48, kv_heads=4, head_dim=128, hidden_size=2560, layers=50,
           window=513,
           kinds=listed(FULL_OR_WINDOW, full_every("sliding_window_pattern", default=5))),
    Family(("gpt_neo",), q_heads=16, hidden_size=2048, layers=24, window=256,
           names=Names(q_heads=("num_heads", "num_attention_heads"), kv_heads=(), head_dim=(),
                       layers=("num_layers", "num_hidden_layers"), window=("window_size",)),
           kinds=global_or_local),
)
# fmt: on

WINDOWED_FAMILIES = (*ALL_LAYERS, *SWITCHED, *SOME_LAYERS)
