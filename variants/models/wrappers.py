"""Models of several modalities: where in their files the language model stands.

Declared as families are: an image may reach a language model by attention of its own, of which
the language model's own fields say nothing.
"""

from __future__ import annotations

# Where it stands: the type that it has where it says none, and the types of the whole.
_TEXT_CONFIG = {
    "aria_text": "aria",
    "cohere2": "aya_vision cohere2_vision",
    "emu3_text_model": "emu3",
    "exaone4": "exaone4_5",
    "gemma3_text": "gemma3 shieldgemma2",
    "glm4v_moe_text": "glm4v_moe",
    "glm4v_text": "glm4v glm46v",
    "granite": "granite_speech granite_speech_plus",
    "lfm2": "lfm2_vl",
    "lfm3": "lfm3_vl",
    "llama": "deepseek_vl deepseek_vl_hybrid glmasr idefics3 janus llava llava_next"
    " llava_next_video perception_lm smolvlm video_llava vipllava voxtral multi_modality",
    "mistral": "idefics2 mistral3",
    "mllama_text_model": "mllama",
    "nemotron_h": "nemotron_h_omni",
    "opt": "blip-2 instructblip instructblipvideo",
    "persimmon": "fuyu",
    "qwen2": "audioflamingo3 fast_vlm got_ocr2 internvl llava_onevision musicflamingo ovis2"
    " qwen2_audio video_llama_3",
    "qwen2_5_omni_text": "qwen2_5_omni_thinker",
    "qwen2_5_vl_text": "qwen2_5_vl",
    "qwen2_vl_text": "qwen2_vl",
    "qwen3": "lighton_ocr qianfan_ocr qwen3_asr",
    "qwen3_5_moe_text": "qwen3_5_moe",
    "qwen3_5_text": "qwen3_5 jev minicpm_ocr minicpmv4_6 minicpmv4_7",
    "qwen3_omni_moe_text": "qwen3_omni_moe_thinker",
    "qwen3_vl_moe_text": "qwen3_vl_moe",
    "qwen3_vl_text": "qwen3_vl",
}
_ELSEWHERE = {
    "internvl_chat": (("llm_config",), ""),
    "h2ovl_chat": (("llm_config",), ""),
    "ovis": (("llm_config",), ""),
    "NemotronH_Nano_VL_V2": (("llm_config",), "nemotron_h"),
    "qwen2_5_omni": (("thinker_config", "text_config"), "qwen2_5_omni_text"),
    "qwen3_omni_moe": (("thinker_config", "text_config"), "qwen3_omni_moe_text"),
}

# Of the whole's type: the fields to enter in turn, and the type at the end of them.
WRAPPERS: dict[str, tuple[tuple[str, ...], str]] = {
    whole: (("text_config",), inner) for inner, names in _TEXT_CONFIG.items()
    for whole in names.split()
} | _ELSEWHERE  # fmt: skip

# The same fields under other names in files of other authors.
SAME_PLACE = ("text_config", "llm_config", "language_config")

# Before `text_config`, its fields stood at the top.
FLAT = {"qwen2_vl": "qwen2_vl_text", "qwen2_5_vl": "qwen2_5_vl_text"}
