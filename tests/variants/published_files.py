"""Configuration files of public models, shortened to what tests of reading them need."""

from __future__ import annotations

# As published, shortened to what has to do with attention and some of what has not.
LLAMA_3_1_8B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_dropout": 0.0,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rope_theta": 500000.0,
    "vocab_size": 128256,
}
GPT2 = {"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024}
BLOOM = {"model_type": "bloom", "n_embed": 4096, "num_attention_heads": 32, "n_layer": 30}
MPT = {
    "model_type": "mpt",
    "d_model": 4096,
    "n_heads": 32,
    "n_layers": 32,
    "attn_config": {"alibi": True, "attn_impl": "torch"},
}
GEMMA_2_9B = {
    "model_type": "gemma2",
    "attn_logit_softcapping": 50.0,
    "head_dim": 256,
    "hidden_size": 3584,
    "num_attention_heads": 16,
    "num_hidden_layers": 42,
    "num_key_value_heads": 8,
    "sliding_window": 4096,
    "sliding_window_size": 4096,
}
MISTRAL = LLAMA_3_1_8B | {"model_type": "mistral", "sliding_window": 4096}
QWEN_2_5_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "sliding_window": 131072,
    "max_window_layers": 28,
    "use_sliding_window": False,
}
QWEN_3_8B = LLAMA_3_1_8B | {"model_type": "qwen3", "head_dim": 128, "num_hidden_layers": 36}
GEMMA_3_4B = {  # what its class has too is left out of an inner object
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "num_attention_heads": 16},
}
FALCON_40B = {
    "model_type": "falcon",
    "hidden_size": 8192,
    "multi_query": True,
    "new_decoder_architecture": True,
    "num_attention_heads": 128,
    "num_hidden_layers": 60,
    "num_kv_heads": 8,
}
NEMOTRON_H_8B = {
    "model_type": "nemotron_h",
    "attention_head_dim": 128,
    "hidden_size": 4096,
    "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
    "num_attention_heads": 32,
    "num_hidden_layers": 52,
    "num_key_value_heads": 8,
    "mamba_num_heads": 128,
    "sliding_window": None,
}
MINIMAX_01 = {
    "model_type": "minimax_text_01",
    "attn_type_list": [0, 0, 0, 0, 0, 0, 0, 1] * 10,
    "head_dim": 128,
    "hidden_size": 6144,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
    "num_key_value_heads": 8,
}
RECURRENT_GEMMA_2B = {
    "model_type": "recurrent_gemma",
    "_block_types": ["recurrent", "recurrent", "attention"],
    "attention_window_size": 2048,
    "head_dim": 256,
    "hidden_size": 2560,
    "logits_soft_cap": 30.0,
    "lru_width": 2560,
    "num_attention_heads": 10,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
}
COMMAND_R7B = LLAMA_3_1_8B | {
    "model_type": "cohere2",
    "head_dim": 128,
    "layer_switch": 4,
    "order_of_interleaved_layers": "local_attn_first",
    "position_embedding_type": "rope_gptj",
    "sliding_window": 4096,
    "sliding_window_pattern": 4,
}
LFM_2 = {
    "model_type": "lfm2",
    "block_dim": 2048,
    "conv_L_cache": 3,
    "full_attn_idxs": [2, 5, 8, 10, 12, 14],
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
}
MPT_GROUPED = MPT | {
    "attn_config": {"attn_type": "grouped_query_attention", "kv_n_heads": 8, "alibi": False}
}
