"""Families that are known not to fit: why, in a few words, for the message that refuses them."""

from __future__ import annotations

_LATENT = "multi-head latent attention: keys and values share a compressed cache"
_ENCODER = "an encoder: its tokens see each other in both directions"
_PAIR = "an encoder and a decoder with cross attention"
_SINKS = "attention sinks: each head has a learned score beside its keys"
_PER_LAYER = "heads differ from layer to layer"
_RECURRENT = "it has no attention"
_INDEXED = "an index picks the keys that each query sees"
_SHARED = "layers share keys and values"

_REASONS = {
    _LATENT: "axk1 bailing_hybrid bailing_moe_linear bailing_moe_v2_5 deepseek_v2 deepseek_v3"
    " deepseek_vl_v2 glm4_moe_lite kimi_k2 kimi_linear kimi_vl longcat_flash minicpm3"
    " mistral_large4 mistral_large4_text pangu_ultra_moe youtu",
    _INDEXED: "axk2 deepseek_v32 deepseek_v4 dots3_note dots3_note_text glm_moe_dsa hy_v4"
    " minimax_m3_vl_text qwen4_exp qwen4_exp_text",
    _ENCODER: "albert bert bert-generation big_bird camembert convbert data2vec-text deberta"
    " deberta-v2 distilbert electra ernie esm eurobert funnel ibert layoutlm longformer luke"
    " megatron-bert mobilebert modernbert mpnet nomic_bert nystromformer rembert roberta"
    " roberta-prelayernorm roc_bert roformer squeezebert xlm xlm-roberta xlm-roberta-xl xmod yoso",
    _PAIR: "bart bigbird_pegasus blenderbot blenderbot-small encoder-decoder fsmt led longt5"
    " m2m_100 marian mbart mt5 musicgen musicgen_melody mvp nllb-moe pegasus pegasus_x plbart"
    " prophetnet seamless_m4t seamless_m4t_v2 speech-encoder-decoder speech_to_text"
    " switch_transformers t5 t5gemma trocr udop umt5 vision-encoder-decoder whisper",
    _SINKS: "flint gpt_oss granite_swa granitemoe_swa mimo_v2_flash",
    _PER_LAYER: "deci gemma4 gemma4_text gemma4_unified gemma4_unified_text nemotron-nas openelm"
    " laguna step3p5 step3p7 inkling_text inkling2_text",
    _SHARED: "gemma3n gemma3n_text hunyuan phi4flash apple_foundation",
    _RECURRENT: "falcon_mamba mamba mamba2 rwkv xlstm",
    "attention in chunks": "llama4 llama4_text",
    "every other layer is block-sparse": "phi3small",
    "blocks of attention that layers share read the embeddings, too": "zamba zamba2",
    "each head is the difference of two": "diffllama",
    "a learned mask picks the keys that each query sees": "doge",
    "attention heads are experts": "jetmoe",
    "its slopes of ALiBi and its scale are its own": "jais btlm",
    "its prompt is seen in both directions": "paligemma cpmant",
    "relative positions are learned": "xlnet transfo-xl",
    "attention by hashing": "reformer",
    "patches of bytes attend, and cross attention joins them": "blt",
}

REASONS = {name: reason for reason, names in _REASONS.items() for name in names.split()}
