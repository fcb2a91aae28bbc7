"""Which fields that a family does not read may be passed over, and which refuse the file."""

from __future__ import annotations

import re

from variants.models.fields import Fields, shown

# Names that speak of attention, of layers or of sizes.
_SUSPICIOUS = re.compile(
    r"att(n|en)|window|swa|layer|block|head|kv|key|quer|value|qk|sink|latent|lora|alibi|relative"
    r"|position|causal|direction|mask|local|global|sparse|index|chunk|cross|cap|clip|hidden|dim"
    r"|emb|model|width|depth|interval|period|pattern|types?($|_)|mamba|ssm|conv|recurren|linear"
    r"|share|group|compress|strid|memor|cla($|_)|encoder|decoder|sizes?$|prefix|hybrid|lambda"
    r"|^n_|^num_|(^|_)(mla|nsa|dsa|moba|gla|kda|mha|mqa|gqa)(_|$)|delta|rnn"
    r"|^(text|llm|language|thinker)_config$",
    re.IGNORECASE,
)

# Names that speak of what costs attention nothing, or the same everywhere.
_HARMLESS = re.compile(
    "|".join(
        (
            # training, initial values, regularisation
            r".*(dropout|pdrop|_drop)(_.*)?",
            r"initializer_.*|init_(std|scale|method|device|config|cutoff_factor)|.*init_variance.*",
            r"embedding_initializer_range|layerdrop|gradient_checkpointing|use_reentrant",
            # biases and norms
            r"(use_|add_)?(attention|attn|qkv|query_key_value|qk|mlp|lm_head|linear|o_proj|conv|proj"
            r"|attention_qkv|attention_out|attn_out|embd_layer)?_?(out_|proj_)?bias(_linear)?|no_bias",
            r".*norm.*|.*_eps(ilon)?|apply_residual_connection_post.*|residual_.*",
            # positions that are rotated or added to embeddings
            r".*rope_(theta|scaling|parameters|interleave|interleaved|ratio|pct|type|base|traditional"
            r"|local_base_freq|freq_base|dim|scaling_layers|percent|position_dim)",
            r"(original_|model_)?max_(position|positions|seq|sequence|model|length)(_.*)?|n_positions|n_ctx",
            r"seq_len(gth)?|max_position_embeddings_.*|layer_rope_theta|swa_rope_theta",
            r".*rotary.*|.*theta|original_rope|use_pos_enc|use_learned_position_embeddings|mrope.*",
            r"use_dynamic_ntk|use_logn_attn|llama_4_scaling.*|(learned_)?pos_emb|use_mrope",
            # scores times a number, and caps on what is not a score
            r"attention_multiplier|query_pre_attn_scalar|softmax_scale|scale_attn_.*|logit_scale",
            r"(scale_)?(attention|attn)_softmax_in_fp32|masked_softmax_fusion|reorder_and_upcast_attn",
            r"apply_query_key_layer_scaling|final_logit_softcapping|clip_qkv|key_multiplier",
            r"logits_.*|num_logits_to_keep|embeddings_scale_by.*|embedding_multiplier|lm_head_multiplier|mlp_multipliers|.*router.*softcap.*",
            # feed-forward layers and experts
            r".*expert.*|moe_.*|.*_moe|.*_mlp(_.*)?|mlp_.*|.*router.*|.*intermediate.*|n_inner|ffn_.*",
            r".*_ffn(_.*)?|.*ff_dim.*|feed_forward.*|first_k_dense_replace|n_group|topk_group",
            r"decoder_sparse_step|num_dense_layers|hidden_act(ivation)?|.*activation.*|num_ln_in.*",
            r"topk_method|.*routed_scaling_factor|.*route_scale|use_gated_.*|use_parallel_.*",
            r"num_limited_groups|parallel_attn(_mlp_res)?|scale_depth|dim_model_base|norm_topk_prob|shared_moe_mode",
            # more tokens predicted at once, by layers of their own
            r".*mtp.*|num_nextn_predict_layers|num_(extra_)?predict.*",
            # words, embeddings, heads of classifiers, generation
            r".*vocab.*|.*token(_.*)?|.*tokens(_.*)?|.*tokenizer.*|tie_.*|.*_tied?_.*|scale_emb.*",
            r"word_embed_proj_dim|embedding_fraction|mask_init_id|pool_type|embd_layer|emb(edd)?_.*|use_embedding_sharing|normalize_embed.*",
            r"classifier_.*|summary_.*|problem_type|type_vocab_size|id2label|label2id|num_labels",
            r"return_dict|output_.*|use_cache|num_beam.*|num_return_sequences|.*_penalty|top_[kp]",
            r"(encoder_)?no_repeat_ngram_size|max_length|min_length|prefix|suffix|temperature",
            r"do_sample|early_stopping|cache_implementation|is_decoder|pad_.*|chunk_size_feed_forward",
            r"pooler_.*|finetuning_task|task_specific_params|cross_attention_hidden_size",
            # how it is computed or stored
            r"_?attn_implementation.*|attn_impl|_?use_(flash|sdpa|fused|triton).*|_?flash.*",
            r"quantization(_config)?|compression_config|kv_cache_(scheme|quant.*)|use_cache_(kernel"
            r"|quantization)|model_type|_name_or_path|name_or_path|pretraining_tp|auto_map|dtype",
            r"torch_dtype|mamba_ssm_cache_dtype|transformers_version|transformers_js_config",
            r"pretrained_checkpoint|model_name|model_version|unsloth_.*|architectures|slow_but_exact",
            r"skip_bias_add(_qkv)?|bias_dropout_fusion|hidden_dropout|layer_norm_elementwise_affine",
            r"do_layer_norm_before|_remove_final_layer_norm|softmax_in_fp32|fp32|bf16|fp16",
        )
    )
)


def refuse_unread(fields: Fields, ignored: str | None) -> None:
    """Refuse a file whose fields say of attention what its family does not read.

    A field that is null, false, zero or empty switches something off, or is not used.

    Args:
        fields: The configuration, after its family has read it.
        ignored: Regular expression of further names that mean nothing for the family.

    Raises:
        ModelError: There is such a field; the message names it.
    """
    for name, value in fields.unread().items():
        if not value or not _SUSPICIOUS.search(name) or _HARMLESS.fullmatch(name):
            continue
        if ignored is not None and re.fullmatch(ignored, name):
            continue
        raise fields.refuse(
            f"{name} may change attention and has no meaning here for model_type "
            f"{fields.values.get('model_type')}, got {shown(value)}"
        )
