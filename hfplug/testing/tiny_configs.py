"""The sizes of tiny models: what every configuration is reduced to, and the few that need more than that.

A configuration's own defaults are kept, but for sizes, so that a tiny model is built the way the real one is: the same
kinds of layers in the same order, the same activation, the same ties.
"""

from __future__ import annotations

from typing import Any

# What a field of any configuration is reduced to, if its default is larger. Widths are 32, heads 4 of 8 numbers,
# keys and values 2 heads, experts 4 of which 2 are taken.
LARGEST: dict[str, int] = {
    **dict.fromkeys(
        (
            *("vocab_size", "vocab_size_per_layer_input", "src_vocab_size", "tgt_vocab_size", "decoder_vocab_size"),
            *("codebook_size", "audio_vocab_size", "entity_vocab_size", "t2u_vocab_size", "char_vocab_size"),
            *("unit_hifi_gan_vocab_size", "pronunciation_vocab_size", "shape_vocab_size", "unpadded_vocab_size"),
            *("encoder_hash_byte_group_vocab", "num_hash_buckets", "prediction_head_size"),
        ),
        200,
    ),
    **dict.fromkeys(
        (
            *("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "emb_dim", "embedding_dim", "embed_dim"),
            *("encoder_hidden_size", "backbone_hidden_size", "pooler_hidden_size", "attention_hidden_size"),
            *("hidden_size_global", "word_embed_proj_dim", "input_embedding_size", "output_embedding_size"),
            *("true_hidden_size", "intra_bottleneck_size", "lru_width", "d_latents", "pronunciation_embed_dim"),
            *(
                "shape_embed_dim",
                "vision_output_dim",
                "projector_input_dim",
                "projector_output_dim",
                "audio_hidden_size",
            ),
            *("out_hidden_size", "output_dim", "cross_attention_hidden_size", "entity_emb_size", "ple_embed_dim"),
            *("downsample_hidden_size", "input_size", "dim_model_base", "prompt_mid_dim", "router_hidden_size"),
        ),
        32,
    ),
    **dict.fromkeys(
        (
            *(
                "intermediate_size",
                "encoder_ffn_dim",
                "decoder_ffn_dim",
                "ffn_dim",
                "d_ff",
                "n_inner",
                "d_inner",
                "dff",
            ),
            *("hidden_dim", "ffn_hidden_size", "dim_ff", "feed_forward_size", "intermediate_size_mlp", "mlp_dim"),
            *("dense_intermediate_size", "shared_intermediate_size", "mamba_d_ssm", "t2u_encoder_ffn_dim"),
            *("t2u_decoder_ffn_dim", "speech_encoder_intermediate_size", "expert_ffn_hidden_size"),
        ),
        64,
    ),
    **dict.fromkeys(
        (
            *("moe_intermediate_size", "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"),
            *("shared_experts_intermediate_size",),
        ),
        32,
    ),
    **dict.fromkeys(
        (
            *("num_attention_heads", "encoder_attention_heads", "decoder_attention_heads", "n_head", "n_heads"),
            *("num_heads", "attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads"),
            *("mamba_n_heads", "swa_num_attention_heads", "linear_num_value_heads", "linear_num_heads"),
            *("num_self_attention_heads", "num_cross_attention_heads", "index_n_heads", "mamba_num_heads"),
            *("conf_num_attention_heads", "speech_encoder_attention_heads", "t2u_encoder_attention_heads"),
            *("t2u_decoder_attention_heads",),
        ),
        4,
    ),
    **dict.fromkeys(
        (
            *("num_key_value_heads", "num_kv_heads", "kv_n_heads", "swa_num_key_value_heads", "linear_num_key_heads"),
            *("n_groups", "num_query_groups"),
        ),
        2,
    ),
    **dict.fromkeys(
        (
            *("head_dim", "d_kv", "d_head", "dim_head", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"),
            *("attention_head_size", "swa_head_dim", "linear_key_head_dim", "linear_value_head_dim", "kv_channels"),
            *("linear_head_dim", "rotary_dim", "attention_head_dim", "query_pre_attn_scalar"),
            *(
                "state_size",
                "mamba_d_state",
                "ssm_state_size",
                "laurel_rank",
                "adapter_rank",
                "hidden_size_per_layer_input",
            ),
        ),
        8,
    ),
    "index_head_dim": 16,  # part of it is rotated, as much as is of the other heads
    "qk_head_dim": 16,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "o_lora_rank": 16,
    "mamba_d_head": 16,
    "mamba_head_dim": 16,
    "mamba_headdim": 16,
    "time_step_rank": 4,
    "mamba_dt_rank": 4,
    **dict.fromkeys(
        (*("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts", "zero_expert_num"),),
        4,
    ),
    **dict.fromkeys(
        (
            *("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k", "n_group"),
            *("num_expert_group",),
        ),
        2,
    ),
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "moe_layer_start_index": 1,
    **dict.fromkeys(
        (
            *("max_position_embeddings", "n_positions", "n_ctx", "context_length", "max_seq_len"),
            *("max_source_positions", "max_target_positions", "max_encoder_position_embeddings"),
            *("max_decoder_position_embeddings", "t2u_max_position_embeddings"),
        ),
        512,
    ),
    **dict.fromkeys(("num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"), 2),
    "num_decoder_layers": 2,
    **dict.fromkeys(("num_encoder_layers", "speech_encoder_layers", "t2u_encoder_layers", "t2u_decoder_layers"), 2),
    **dict.fromkeys(
        ("depth", "num_blocks", "num_self_attends_per_block", "conf_num_hidden_layers", "encoder_layers"), 2
    ),
    "chunk_size": 16,
    "mamba_chunk_size": 16,
    "max_window_layers": 1,
    "max_2d_position_embeddings": 64,
}
# The number of layers: reduced to as many as show every kind of layer once, but at least two.
LAYERS = "num_hidden_layers"
# Types in the mappings of text models of which none is made, and why.
NOT_TEXT: dict[str, str] = {
    **dict.fromkeys(
        ("gemma4_assistant", "gemma4_unified_assistant"),
        "it drafts for another model and reads that one's keys and values instead of text alone",
    ),
    **dict.fromkeys(("musicgen", "musicgen_melody"), "it writes codes of sound, not text"),
    "voxtral_realtime": "its forward wants sound beside the text",
}
# Packages beside transformers that a type cannot be built without.
NEEDS: dict[str, str] = {"gemma3n": "timm", "layoutlmv2": "detectron2"}
_INDEXER = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 64,
    "indexer_compress_ratio": 4,
}
_SLIDING = {
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 16,
    "swa_kv_lora_rank": 16,
    "swa_head_dim": 16,
    "swa_qk_nope_head_dim": 8,
    "swa_v_head_dim": 8,
    "head_dim": 16,
}
_SOUND = {"depths": [1, 1], "downsampling_ratios": [2], "num_filters": 4}
# What the rule above does not get right. The key is the type (and the name of the configuration inside it), or the
# type and the task; "default" is what the class needs before its defaults are even consistent.
EXCEPTIONS: dict[tuple[str, ...], dict[str, Any]] = {
    # Defaults without any attention layer, or with more layers before the first than four.
    ("bamba",): {"attn_layer_indices": [1]},
    ("granitemoehybrid",): {"layer_types": ["mamba", "attention"]},
    ("jamba",): {"attn_layer_period": 2, "attn_layer_offset": 1},
    ("recurrent_gemma",): {"num_hidden_layers": 3},
    # Defaults that are None and that the model cannot do without.
    ("hunyuan_v1_dense",): {"head_dim": 8},
    ("hunyuan_v1_moe",): {"head_dim": 8},
    ("ministral",): {"head_dim": 8},
    ("nemotron",): {"head_dim": 8, "num_key_value_heads": 2},
    ("deepseek_v2",): {"num_experts_per_tok": 2},
    ("lfm2_moe",): {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    ("dbrx", "attn_config"): {"rope_theta": 10000.0, "clip_qkv": 8.0},
    ("qwen4_exp_text",): _INDEXER,
    ("qwen4_exp", "text_config"): _INDEXER,
    # Its compressors bring so many tokens together before they do anything: 4 and 128.
    ("deepseek_v4",): {"compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8}},
    ("blt", "causal"): {"num_hidden_layers": 2},  # its cache asks for it
    ("encoder-decoder", "decoder"): {"is_decoder": True, "add_cross_attention": True},
    ("encoder-decoder", "seq2seq"): {"decoder_start_token_id": 1, "pad_token_id": 0},
    ("cohere_compass_text",): {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("full_attention", "sliding_attention")
        }
    },
    ("neomme",): {"head_dim": 16},  # a quarter of it is turned, in pairs for two axes
    ("dots1",): {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    ("esm",): {"vocab_size": 33},
    ("esm", "masked_lm"): {"pad_token_id": 1, "mask_token_id": 32},  # its checkpoints', not its class's
    ("perceiver", "masked_lm"): {"max_position_embeddings": 16},  # scores for as many places
    # Sizes that have to fit one another.
    ("mamba2",): {"num_heads": 4, "head_dim": 16},
    ("gpt_neo",): {"attention_types": [[["global", "local"], 1]]},
    # Positions of any number, and chunks that a text of 4, 16 or 36 tokens fills.
    ("reformer",): {
        "axial_pos_embds": False,
        "attn_layers": ["local", "lsh"],
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "hash_seed": 0,  # else it hashes with new numbers at each call, and two calls never give the same
    },
    ("lilt",): {"hidden_size": 48},  # six coordinates of equal width
    ("layoutlmv3",): {"coordinate_size": 5, "shape_size": 6},  # four of the one and two of the other make the width
    ("xlstm",): {"hidden_size": 128, "embedding_dim": 128},  # its states are rounded up to 64
    ("zamba",): {
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "num_hidden_layers": 3,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
    },
    ("gemma3n_text",): {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "intermediate_size": [64] * 4,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
        "altup_correct_scale": False,  # a new model's scale is zero, and so is then what a trained one gives here
    },
    **dict.fromkeys(
        (("gemma4_text",), ("gemma4_unified_text",), ("gemma4", "text_config"), ("gemma4_unified", "text_config")),
        {"global_head_dim": 16},
    ),
    ("dots3_note_text",): _SLIDING,
    ("dots3_note", "text_config"): _SLIDING,
    ("dots3_note", "vision_config"): {"adapter_in_dim": 32, "adapter_out_dim": 32},
    ("dots3_note", "audio_config"): {"adapter_input_size": 32, "adapter_out_dim": 32},
    ("got_ocr2", "vision_config"): {"output_channels": 16},
    ("phi4_multimodal", "audio_config"): {
        **dict.fromkeys(("nemo_conv_channels", "ext_pw_out_channel", "depthwise_separable_out_channel"), 32)
    },
    ("vibevoice_asr", "acoustic_tokenizer_encoder_config"): _SOUND,
    ("vibevoice_asr", "semantic_tokenizer_encoder_config"): _SOUND,
    ("moshi", "audio_encoder_config"): {"codebook_size": 256},
    # Lists of lists, or stacks: fewer blocks.
    ("funnel",): {"block_sizes": [1, 1], "num_decoder_layers": 1},
    ("markuplm",): {"max_depth": 4},
    ("xmod",): {"default_language": "en_XX"},
}
